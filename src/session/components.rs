//! Connected components of a label map, found as a stream of planes.
//!
//! Neighbours along i of one kind are a run. A run that touches no run before it begins a
//! provisional component; one that touches several joins theirs. Only the runs of two planes
//! exist at a time, and a table with one entry for each provisional component, whose length is
//! counted before it is allocated. Nothing is stored for a voxel: a later sweep meets the runs in
//! the same order, so it finds the same provisional numbers, and rewrites the map.

use crate::base::error::{filled, reserved};
use crate::base::{Error, Result};

/// A stored label value.
pub(super) trait Stored:
    Copy + Default + Eq + Into<u32> + Into<usize> + Send + Sync
{
    /// How many values there are.
    const VALUES: usize;
}

impl Stored for u8 {
    const VALUES: usize = 1 << 8;
}

impl Stored for u16 {
    const VALUES: usize = 1 << 16;
}

/// Voxels `start..end` of a line that are of one kind.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) kind: u16,
    /// Provisional.
    component: u32,
}

impl Run {
    /// A run of no component yet.
    pub(super) fn new(voxels: std::ops::Range<usize>, kind: u16) -> Self {
        Self { start: voxels.start as u32, end: voxels.end as u32, kind, component: ALONE }
    }
}

/// A run that no earlier run touches, so far.
const ALONE: u32 = u32::MAX;

/// The runs of one plane.
#[derive(Default)]
struct Plane {
    runs: Vec<Run>,
    /// The first run of each row, and the end of the last.
    rows: Vec<usize>,
}

impl Plane {
    fn clear(&mut self) {
        self.runs.clear();
        self.rows.fill(0);
    }

    fn row(&self, row: usize) -> &[Run] {
        &self.runs[self.rows[row]..self.rows[row + 1]]
    }
}

/// What is known of a component; two that turn out to be one are merged.
pub(super) trait Finding: Copy + Default {
    fn merge(&mut self, other: Self);
}

/// Who numbers provisional components, in the order in which they begin.
trait Numbering {
    fn begin(&mut self) -> u32;

    /// Two are one component.
    fn join(&mut self, _first: u32, _second: u32) {}
}

/// Only counts them.
#[derive(Default)]
struct Count(u64);

impl Numbering for Count {
    fn begin(&mut self) -> u32 {
        self.0 += 1;
        (self.0 - 1) as u32
    }
}

/// Provisional components, each below a root that stands for the component.
pub(super) struct Components<F> {
    /// A component that is not a root names an earlier one.
    parents: Vec<u32>,
    /// Of the roots.
    findings: Vec<F>,
    /// Room for the runs of two planes.
    planes: [Plane; 2],
}

impl<F: Finding> Numbering for Components<F> {
    fn begin(&mut self) -> u32 {
        // The table has room for as many as were counted.
        let component = self.parents.len() as u32;
        self.parents.push(component);
        self.findings.push(F::default());
        component
    }

    fn join(&mut self, first: u32, second: u32) {
        let (first, second) = (self.root(first), self.root(second));
        if first != second {
            let (root, other) = (first.min(second), first.max(second));
            self.parents[other] = root as u32;
            let found = self.findings[other];
            self.findings[root].merge(found);
        }
    }
}

impl<F: Finding> Components<F> {
    /// Bytes of one.
    pub(super) const BYTES: u64 = (size_of::<u32>() + size_of::<F>()) as u64;

    fn root(&mut self, component: u32) -> usize {
        let mut at = component as usize;
        while self.parents[at] as usize != at {
            self.parents[at] = self.parents[self.parents[at] as usize];
            at = self.parents[at] as usize;
        }
        at
    }

    /// Lets every component name its root.
    fn settle(&mut self) {
        for at in 0..self.parents.len() {
            // A parent comes earlier, so it names its root already.
            self.parents[at] = self.parents[self.parents[at] as usize];
        }
    }

    /// What was found of each component.
    pub(super) fn iter(&self) -> impl Iterator<Item = &F> {
        let roots = self.parents.iter().enumerate().filter(|(at, root)| **root as usize == *at);
        roots.map(|(at, _)| &self.findings[at])
    }
}

/// Bytes of a run.
pub(super) const RUN_BYTES: u64 = size_of::<Run>() as u64;

/// What the first run of each row takes.
pub(super) fn row_bytes(rows: usize) -> u64 {
    2 * (rows as u64 + 1) * size_of::<usize>() as u64
}

/// Which voxels belong together, and what may be used to find out.
pub(super) struct Sweep<'a> {
    /// Voxels along i, j, k.
    pub(super) dims: [usize; 3],
    /// Voxels touch by edges and corners too, not by faces only.
    pub(super) diagonal: bool,
    /// The kind of each stored value: neighbours of one kind belong together; 0 is left out.
    pub(super) kinds: &'a [u16],
    /// Most bytes for runs and components.
    pub(super) available_bytes: u64,
    /// Called before each plane of each sweep; an error ends it.
    pub(super) check: &'a mut dyn FnMut() -> Result<()>,
}

impl Sweep<'_> {
    /// Finds the components of `labels`, `[k][j][i]`, or `None` if they take more than is
    /// available. `observe([k, j], run, found)` says what a run adds to what was found of its
    /// component before.
    ///
    /// # Errors
    /// [`Error::Memory`] if the machine has no memory; [`Error::Unsupported`] for lines of 2^32
    /// voxels; whatever `check` returns.
    pub(super) fn find<T: Stored, F: Finding>(
        &mut self,
        labels: &[T],
        observe: impl Fn([usize; 2], &Run, &F) -> F,
    ) -> Result<Option<Components<F>>> {
        let [columns, rows, _] = self.dims;
        let Some(mut planes) = self.planes(labels)? else { return Ok(None) };
        let mut count = Count::default();
        for plane in labels.chunks_exact(columns * rows) {
            self.read(plane, &mut planes)?;
            self.number(&mut planes, &mut count);
        }
        let runs_bytes = 2 * planes[0].runs.capacity() as u64 * RUN_BYTES + row_bytes(rows);
        let bytes = runs_bytes + count.0 * Components::<F>::BYTES;
        if bytes > self.available_bytes || count.0 >= ALONE.into() {
            return Ok(None);
        }
        let mut components = Components {
            parents: reserved("components of a label map", count.0 as usize)?,
            findings: reserved("components of a label map", count.0 as usize)?,
            planes: [Plane::default(), Plane::default()],
        };
        planes.iter_mut().for_each(Plane::clear);
        for (k, plane) in labels.chunks_exact(columns * rows).enumerate() {
            self.read(plane, &mut planes)?;
            self.number(&mut planes, &mut components);
            for j in 0..rows {
                for run in planes[1].row(j) {
                    let root = components.root(run.component);
                    let added = observe([k, j], run, &components.findings[root]);
                    components.findings[root].merge(added);
                }
            }
        }
        components.settle();
        Ok(Some(Components { planes, ..components }))
    }

    /// Changes the components of which `changes(kind, found)`: each of their runs becomes
    /// `value(line, start)`. `labels` are as they were when the components were found.
    ///
    /// # Errors
    /// Whatever `check` returns.
    pub(super) fn rewrite<T: Stored, F: Finding>(
        &mut self,
        labels: &mut [T],
        components: Components<F>,
        changes: impl Fn(u16, &F) -> bool,
        value: impl Fn(&[T], usize) -> T,
    ) -> Result<()> {
        let Components { parents, findings, mut planes } = components;
        let [columns, rows, _] = self.dims;
        let mut count = Count::default();
        planes.iter_mut().for_each(Plane::clear);
        for plane in labels.chunks_exact_mut(columns * rows) {
            self.read(plane, &mut planes)?;
            self.number(&mut planes, &mut count);
            for (row, line) in plane.chunks_exact_mut(columns).enumerate() {
                for run in planes[1].row(row) {
                    let root = parents[run.component as usize] as usize;
                    if changes(run.kind, &findings[root]) {
                        let value = value(line, run.start as usize);
                        line[run.start as usize..run.end as usize].fill(value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Room for the runs of any two planes, both empty, if that much is available.
    fn planes<T: Stored>(&mut self, labels: &[T]) -> Result<Option<[Plane; 2]>> {
        let [columns, rows, _] = self.dims;
        if columns >= u32::MAX as usize {
            return Err(Error::Unsupported(format!(
                "components of lines of {columns} voxels, expected fewer than {}",
                u32::MAX
            )));
        }
        let mut most = 0;
        for plane in labels.chunks_exact(columns * rows) {
            (self.check)()?;
            let mut count = 0;
            plane.chunks_exact(columns).for_each(|line| runs(line, self.kinds, |_| count += 1));
            most = most.max(count);
        }
        if 2 * most as u64 * RUN_BYTES + row_bytes(rows) > self.available_bytes {
            return Ok(None);
        }
        let plane = || -> Result<Plane> {
            let runs = reserved("runs of a plane", most)?;
            Ok(Plane { runs, rows: filled("runs of a plane", rows + 1, 0)? })
        };
        Ok(Some([plane()?, plane()?]))
    }

    /// Makes the second plane the first, and `labels`' runs the second.
    fn read<T: Stored>(&mut self, labels: &[T], planes: &mut [Plane; 2]) -> Result<()> {
        (self.check)()?;
        planes.swap(0, 1);
        let Plane { runs: found, rows } = &mut planes[1];
        found.clear();
        for (line, row) in labels.chunks_exact(self.dims[0]).zip(1..) {
            runs(line, self.kinds, |run| found.push(run));
            rows[row] = found.len();
        }
        Ok(())
    }

    /// Gives each run of the second plane its provisional component: that of the first run before
    /// it that it touches, or a new one; further ones are joined to it.
    fn number(&self, [before, here]: &mut [Plane; 2], numbering: &mut impl Numbering) {
        let rows = self.dims[1];
        let reach = u32::from(self.diagonal);
        for row in 0..rows {
            let (earlier, rest) = here.runs.split_at_mut(here.rows[row]);
            let line = &mut rest[..here.rows[row + 1] - here.rows[row]];
            if line.is_empty() {
                continue;
            }
            if row > 0 {
                touch(&earlier[here.rows[row - 1]..], line, reach, numbering);
            }
            touch(before.row(row), line, reach, numbering);
            if self.diagonal && row > 0 {
                touch(before.row(row - 1), line, reach, numbering);
            }
            if self.diagonal && row + 1 < rows {
                touch(before.row(row + 1), line, reach, numbering);
            }
            for run in line.iter_mut().filter(|run| run.component == ALONE) {
                run.component = numbering.begin();
            }
        }
    }
}

/// The runs of a line.
fn runs<T: Stored>(line: &[T], kinds: &[u16], mut found: impl FnMut(Run)) {
    let mut at = 0;
    let mut open: Option<Run> = None;
    while at < line.len() {
        let value: usize = line[at].into();
        let end = at + same(&line[at..]);
        let kind = kinds[value];
        match &mut open {
            Some(run) if run.kind == kind => run.end = end as u32,
            _ => {
                open.take().into_iter().for_each(&mut found);
                open = (kind != 0).then(|| Run::new(at..end, kind));
            }
        }
        at = end;
    }
    open.into_iter().for_each(found);
}

/// How many values at the beginning are the same; a line has at least one.
pub(super) fn same<T: Stored>(line: &[T]) -> usize {
    const BLOCK: usize = 16;
    let first = line[0];
    let mut at = 0;
    // Whole blocks without a branch inside, so that they become vector instructions.
    for block in line.chunks_exact(BLOCK) {
        if block.iter().fold(false, |differs, &value| differs | (value != first)) {
            break;
        }
        at += BLOCK;
    }
    line[at..].iter().position(|&value| value != first).map_or(line.len(), |length| at + length)
}

/// Gives runs of `line` the component of the runs of an earlier line that they touch.
fn touch(earlier: &[Run], line: &mut [Run], reach: u32, numbering: &mut impl Numbering) {
    let mut first = 0;
    for run in line {
        // Runs that end before this one end before all that follow.
        while first < earlier.len() && earlier[first].end + reach <= run.start {
            first += 1;
        }
        let near = earlier[first..].iter().take_while(|other| other.start < run.end + reach);
        for other in near.filter(|other| other.kind == run.kind) {
            match run.component {
                ALONE => run.component = other.component,
                component if component != other.component => {
                    numbering.join(component, other.component);
                }
                _ => {}
            }
        }
    }
}
