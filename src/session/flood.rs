//! Connected components of a label map, found by flooding: for maps of noise, whose components are
//! too many for the table of a stream of planes.
//!
//! What it takes does not depend on the map: two bits for each voxel, and a stack of fixed size. A
//! run that finds the stack full is left; when the stack is empty, the map is searched for such
//! runs. That costs time, in maps that no network makes.

use super::components::{Finding, Run, Stored};
use crate::base::Result;
use crate::base::error::{filled, reserved};

/// Runs whose neighbours are still to be looked at, at most.
const STACK: usize = 1 << 16;
/// Runs between two checks whether to stop.
const RUNS_PER_CHECK: usize = 1 << 16;

/// Bytes that flooding takes.
pub(super) fn bytes(dims: [usize; 3]) -> u64 {
    let voxels: usize = dims.iter().product();
    (2 * voxels.div_ceil(64) * size_of::<u64>() + stack(dims) * size_of::<usize>()) as u64
}

/// A run takes a voxel at least.
fn stack(dims: [usize; 3]) -> usize {
    STACK.min(dims.iter().product())
}

/// A bit for each voxel. Those of a run are alike.
struct Bits(Vec<u64>);

impl Bits {
    fn new(voxels: usize) -> Result<Self> {
        Ok(Self(filled("marks of voxels", voxels.div_ceil(64), 0)?))
    }

    fn has(&self, voxel: usize) -> bool {
        self.0[voxel / 64] >> (voxel % 64) & 1 == 1
    }

    fn add(&mut self, voxels: std::ops::Range<usize>) {
        voxels.for_each(|voxel| self.0[voxel / 64] |= 1 << (voxel % 64));
    }
}

/// Which voxels belong together, and the memory to find out.
pub(super) struct Flood<'a> {
    /// Voxels along i, j, k.
    dims: [usize; 3],
    /// Voxels touch by edges and corners too, not by faces only.
    diagonal: bool,
    /// The kind of each stored value: neighbours of one kind belong together; 0 is left out.
    kinds: &'a [u16],
    /// First voxels of runs whose neighbours are still to be looked at.
    stack: Vec<usize>,
    most: usize,
    /// Runs since the last check.
    runs: usize,
    /// Called before each plane that is searched, and every so many runs; an error ends the
    /// search.
    check: &'a mut dyn FnMut() -> Result<()>,
}

impl<'a> Flood<'a> {
    pub(super) fn new(
        dims: [usize; 3],
        diagonal: bool,
        kinds: &'a [u16],
        check: &'a mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let most = stack(dims);
        let stack = reserved("runs of a label map", most)?;
        Ok(Self { dims, diagonal, kinds, stack, most, runs: 0, check })
    }

    /// Calls `found` with what `observe(labels, [k, j], run, found)` says of each component.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if the machine has too little; whatever `check` returns.
    pub(super) fn find<T: Stored, F: Finding>(
        &mut self,
        labels: &[T],
        observe: &impl Fn(&[T], [usize; 2], &Run, &F) -> F,
        mut found: impl FnMut(&F),
    ) -> Result<()> {
        let mut seen = Bits::new(labels.len())?;
        self.each(labels, &mut seen, observe, |_, _, component| {
            found(component);
            Ok(())
        })
    }

    /// Changes the components of which `changes(kind, found)`: each of their runs becomes
    /// `value(line, start)`.
    ///
    /// # Errors
    /// As [`Flood::find`].
    pub(super) fn rewrite<T: Stored, F: Finding>(
        &mut self,
        labels: &mut [T],
        observe: &impl Fn(&[T], [usize; 2], &Run, &F) -> F,
        changes: impl Fn(u16, &F) -> bool,
        value: impl Fn(&[T], usize) -> T,
    ) -> Result<()> {
        let mut seen = Bits::new(labels.len())?;
        let mut changed = Bits::new(labels.len())?;
        let map = &*labels;
        self.each(map, &mut seen, observe, |this, seed, component| {
            match changes(this.kind(map, seed), component) {
                true => this.component(map, &mut changed, seed, &mut |_, _| {}),
                false => Ok(()),
            }
        })?;
        let columns = self.dims[0];
        let kind = |value: T| -> u16 {
            let value: usize = value.into();
            self.kinds[value]
        };
        for (line, first) in labels.chunks_exact_mut(columns).zip((0..).step_by(columns)) {
            let mut at = 0;
            while at < columns {
                if !changed.has(first + at) {
                    at += 1;
                    continue;
                }
                let own = kind(line[at]);
                let end = at + line[at..].iter().take_while(|value| kind(**value) == own).count();
                let value = value(line, at);
                line[at..end].fill(value);
                at = end;
            }
        }
        Ok(())
    }

    /// Calls `found` with the first voxel of each component and what was observed of it.
    fn each<T: Stored, F: Finding>(
        &mut self,
        labels: &[T],
        seen: &mut Bits,
        observe: &impl Fn(&[T], [usize; 2], &Run, &F) -> F,
        mut found: impl FnMut(&mut Self, usize, &F) -> Result<()>,
    ) -> Result<()> {
        let plane = self.dims[0] * self.dims[1];
        for seed in 0..labels.len() {
            if seed % plane == 0 {
                (self.check)()?;
            }
            if self.kind(labels, seed) == 0 || seen.has(seed) {
                continue;
            }
            let mut component = F::default();
            self.component(labels, seen, seed, &mut |place, run| {
                let added = observe(labels, place, run, &component);
                component.merge(added);
            })?;
            found(self, seed, &component)?;
        }
        Ok(())
    }

    fn kind<T: Stored>(&self, labels: &[T], voxel: usize) -> u16 {
        let value: usize = labels[voxel].into();
        self.kinds[value]
    }

    /// Marks the component of a voxel, which is its first, and calls `each` with its runs.
    fn component<T: Stored>(
        &mut self,
        labels: &[T],
        marks: &mut Bits,
        seed: usize,
        each: &mut impl FnMut([usize; 2], &Run),
    ) -> Result<()> {
        self.push(labels, marks, seed, each);
        let mut all = self.spread(labels, marks, each)?;
        let kind = self.kind(labels, seed);
        // Runs that the stack had no room for touch marked ones. A search may leave runs again.
        // No voxel of the component lies before its seed.
        let [columns, rows, _] = self.dims;
        let seed_line = seed / columns;
        while !all {
            all = true;
            for line in seed_line..labels.len() / columns {
                if line == seed_line || line % rows == 0 {
                    (self.check)()?;
                }
                let (mut at, end) = (line * columns, (line + 1) * columns);
                while at < end {
                    if self.kind(labels, at) != kind {
                        at += 1;
                        continue;
                    }
                    let run = at..at + self.alike(labels, at..end);
                    at = run.end;
                    if !marks.has(run.start) && self.touches(labels, marks, run.clone()) {
                        self.push(labels, marks, run.start, each);
                        all &= self.spread(labels, marks, each)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Empties the stack; whether it had room for all runs.
    fn spread<T: Stored>(
        &mut self,
        labels: &[T],
        marks: &mut Bits,
        each: &mut impl FnMut([usize; 2], &Run),
    ) -> Result<bool> {
        let mut all = true;
        while let Some(first) = self.stack.pop() {
            self.runs += 1;
            if self.runs.is_multiple_of(RUNS_PER_CHECK) {
                (self.check)()?;
            }
            let kind = self.kind(labels, first);
            for near in self.near(self.run(labels, first)).into_iter().flatten() {
                let mut at = near.start;
                while at < near.end {
                    if self.kind(labels, at) != kind || marks.has(at) {
                        at += 1;
                        continue;
                    }
                    let run = self.run(labels, at);
                    at = run.end;
                    match self.stack.len() < self.most {
                        true => self.push(labels, marks, run.start, each),
                        false => all = false,
                    }
                }
            }
        }
        Ok(all)
    }

    /// Marks the run of a voxel; its neighbours are to be looked at.
    fn push<T: Stored>(
        &mut self,
        labels: &[T],
        marks: &mut Bits,
        voxel: usize,
        each: &mut impl FnMut([usize; 2], &Run),
    ) {
        let [columns, rows, _] = self.dims;
        let run = self.run(labels, voxel);
        let line = run.start / columns;
        let within = run.start % columns..run.start % columns + run.len();
        each([line / rows, line % rows], &Run::new(within, self.kind(labels, voxel)));
        self.stack.push(run.start);
        marks.add(run);
    }

    /// The voxels of the run of a voxel.
    fn run<T: Stored>(&self, labels: &[T], voxel: usize) -> std::ops::Range<usize> {
        let (columns, kind) = (self.dims[0], self.kind(labels, voxel));
        let first = voxel - voxel % columns;
        let same = |at: &usize| self.kind(labels, *at) == kind;
        let start = voxel - (first..voxel).rev().take_while(same).count();
        start..voxel + self.alike(labels, voxel..first + columns)
    }

    /// How many voxels from the first of a range on are of its kind.
    fn alike<T: Stored>(&self, labels: &[T], range: std::ops::Range<usize>) -> usize {
        let kind = self.kind(labels, range.start);
        range.take_while(|at| self.kind(labels, *at) == kind).count()
    }

    /// The voxels beside a run in the lines around it.
    fn near(&self, run: std::ops::Range<usize>) -> [Option<std::ops::Range<usize>>; 8] {
        const AROUND: [[usize; 2]; 8] =
            [[1, 0], [0, 1], [2, 1], [1, 2], [0, 0], [0, 2], [2, 0], [2, 2]];
        let [columns, rows, planes] = self.dims;
        let line = run.start / columns;
        let (start, end) = (run.start % columns, run.end - line * columns);
        let (start, end) = match self.diagonal {
            true => (start.saturating_sub(1), columns.min(end + 1)),
            false => (start, end),
        };
        let count = if self.diagonal { 8 } else { 4 };
        std::array::from_fn(|index| {
            let [up, across] = AROUND[index];
            // One less than the step, so that -1 becomes 0.
            let (k, j) = (line / rows + up, line % rows + across);
            let inside = (1..=planes).contains(&k) && (1..=rows).contains(&j) && index < count;
            let first = (k.wrapping_sub(1).wrapping_mul(rows).wrapping_add(j).wrapping_sub(1))
                .wrapping_mul(columns);
            inside.then(|| first + start..first + end)
        })
    }

    /// Whether a run's neighbours of its kind are marked, of one at least.
    fn touches<T: Stored>(&self, labels: &[T], marks: &Bits, run: std::ops::Range<usize>) -> bool {
        let kind = self.kind(labels, run.start);
        self.near(run)
            .into_iter()
            .flatten()
            .flatten()
            .any(|at| marks.has(at) && self.kind(labels, at) == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Count(u32);

    impl Finding for Count {
        fn merge(&mut self, other: Self) {
            self.0 += other.0;
        }
    }

    proptest! {
        #[test]
        fn a_small_stack_finds_the_same(
            dims in [1usize..12, 1usize..8, 1usize..7], diagonal: bool, most in 1usize..4,
            labels in proptest::collection::vec(0u8..3, 11 * 7 * 6)
        ) {
            let labels = &labels[..dims.iter().product()];
            let mut kinds = vec![0u16; 256];
            (kinds[1], kinds[2]) = (1, 2);
            let found = |most: Option<usize>| {
                let mut check = || Ok(());
                let mut flood = Flood::new(dims, diagonal, &kinds, &mut check).unwrap();
                flood.most = most.unwrap_or(flood.most);
                let count = |_: &[u8], _: [usize; 2], run: &Run, _: &Count| {
                    Count(run.end - run.start)
                };
                let mut sizes = Vec::new();
                flood.find(labels, &count, |size: &Count| sizes.push(*size)).unwrap();
                let mut rewritten = labels.to_vec();
                let large = |_, size: &Count| size.0 > 2;
                flood.rewrite(&mut rewritten, &count, large, |_, _| 7).unwrap();
                (sizes, rewritten)
            };
            let (sizes, rewritten) = found(Some(most));
            let sum: u32 = sizes.iter().map(|size| size.0).sum();
            prop_assert_eq!(sum as usize, labels.iter().filter(|label| **label != 0).count());
            prop_assert_eq!((sizes, rewritten), found(None));
        }
    }

    #[test]
    fn a_search_for_runs_that_were_left_can_be_stopped_at_each_plane() {
        let dims = [6, 5, 16];
        let labels = vec![1u8; dims.iter().product()];
        let kinds: Vec<u16> = (0..256).collect();
        let count = |_: &[u8], _: [usize; 2], run: &Run, _: &Count| Count(run.end - run.start);
        // Calls of the check, the last of which may stop the search, and what was found.
        let calls = |most: usize, stop: usize| {
            let (mut calls, mut found) = (0, Vec::new());
            let mut check = || {
                calls += 1;
                if calls == stop { Err(crate::Error::Cancelled) } else { Ok(()) }
            };
            let mut flood = Flood::new(dims, false, &kinds, &mut check).unwrap();
            flood.most = most;
            let outcome = flood.find(&labels, &count, |size: &Count| found.push(size.0));
            (outcome.is_ok(), calls, found)
        };
        assert_eq!(calls(STACK, 0), (true, 16, vec![480]));
        let (done, all, found) = calls(1, 0);
        assert!(done && found == [480]);
        // The whole map is searched once at least, beyond looking for components.
        assert!(all >= 32, "{all} calls");
        for stop in 1..=all {
            let (done, calls, found) = calls(1, stop);
            // The one component is known once the searches have ended.
            let known = stop > all - 15;
            assert_eq!((done, calls, found.len()), (false, stop, usize::from(known)));
        }
    }

    /// `cargo test --release flood::tests::noise -- --ignored --nocapture`
    #[test]
    #[ignore = "prints how long noise of 73 million voxels takes"]
    fn noise_takes_so_long() {
        let dims = [512, 512, 280];
        let mut state = 1u64;
        for (most, values) in [(3u64, "2 labels"), (105, "104 labels")] {
            let labels: Vec<u8> = (0..dims.iter().product())
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 33) % most) as u8
                })
                .collect();
            let kinds: Vec<u16> = (0..256).collect();
            for diagonal in [false, true] {
                let mut check = || Ok(());
                let clock = std::time::Instant::now();
                let mut flood = Flood::new(dims, diagonal, &kinds, &mut check).unwrap();
                let count = |_: &[u8], _: [usize; 2], _: &Run, _: &Count| Count(1);
                let mut map = labels.clone();
                flood.find(&map, &count, |_| {}).unwrap();
                flood.rewrite(&mut map, &count, |_, size| size.0 < 9, |_, _| 0).unwrap();
                println!("{values}, diagonal {diagonal}: {:?}", clock.elapsed());
            }
        }
    }
}
