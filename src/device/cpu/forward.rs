//! A network made ready to run: weights in the kernels' order, the arena, memory of each thread.

use std::sync::Arc;
use std::time::Instant;

use half::bf16;

use super::conv::{ConvWeights, Scratch};
use super::head::Head;
use super::kernels::Kernels;
use super::memory::{BLOCK, Buffer, Shared, Values};
use super::norm::Coefficients;
use super::path::{Method, Path};
use super::reading::ConvRun;
use super::rows::{JoinRow, PoolRow};
use super::statistics::Partial;
use crate::base::error::filled;
use crate::base::{Pool, Result};
use crate::device::{MemoryPart, another_device_s_plan};
#[cfg(test)]
use crate::net::StatisticsId;
use crate::net::{
    Affine, AveragePool, Conv, Displacement, Epilogue, Join, Network, Normalization, Op,
    ParameterId, Plan, TensorId, Weights,
};

enum Layer {
    Conv {
        path: Path,
        /// Where the output overlaps the source: rows of tasks that may be under way.
        under_way: Option<usize>,
        /// One for each fold.
        weights: Vec<ConvWeights>,
        /// Of the sources that are normalised, then of the epilogue.
        coefficients: Vec<Coefficients>,
    },
    Join {
        join: Join,
        /// Of the main branch, then of the shortcut if it is normalised.
        coefficients: Vec<Coefficients>,
    },
    AveragePool {
        pool: AveragePool,
        /// Of the source, if it is normalised.
        coefficients: Vec<Coefficients>,
    },
}

impl Layer {
    /// How many multiplications it takes, about.
    fn multiplications(&self, plan: &Plan) -> f64 {
        let values = |tensor: TensorId| {
            let tensor = &plan.network.tensors[tensor.0];
            tensor.channels as f64 * tensor.shape.iter().product::<usize>() as f64
        };
        match self {
            Self::Conv { path, .. } => path.multiplications(&plan.network),
            Self::Join { join, .. } => values(join.output),
            Self::AveragePool { pool, .. } => values(pool.output),
        }
    }
}

/// A loaded network.
pub(super) struct Forward {
    plan: Arc<Plan>,
    layers: Vec<Layer>,
    /// The normalisations' parameters, `[fold][parameter]`; empty for all other parameters.
    vectors: Vec<Vec<Vec<f32>>>,
    arena: Buffer,
    /// Of the arena's values.
    value_bytes: usize,
    scratch: Vec<Scratch>,
    partials: Vec<Partial>,
    /// `[statistics][channel]`
    statistics: Vec<Vec<Partial>>,
    pub(super) head: Head,
}

/// The patch that a network reads.
pub(super) enum Input<'a> {
    Single(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// Normalisations an operation applies, each with its tensor, in the order of its coefficients:
/// of the sources, then of the end of a residual block.
fn normalizations(op: &Op) -> impl Iterator<Item = (usize, Normalization)> {
    let pending = |tensor: TensorId, how: Option<Normalization>| Some((tensor.0, how?));
    let source = |conv: &Conv, number: usize| {
        conv.sources.get(number).and_then(|from| pending(from.tensor, from.normalization))
    };
    let found = match op {
        Op::Conv(conv) => {
            let end = match conv.epilogue {
                Epilogue::AddNormalized { main, normalization } => Some((main.0, normalization)),
                _ => None,
            };
            [source(conv, 0), source(conv, 1), end]
        }
        Op::Join(join) => {
            let shortcut = join.shortcut.and_then(|from| pending(from.tensor, from.normalization));
            [Some((join.main.0, join.normalization)), shortcut, None]
        }
        Op::AveragePool(pool) => {
            [pending(pool.source.tensor, pool.source.normalization), None, None]
        }
    };
    found.into_iter().flatten()
}

fn padded(network: &Network, tensor: usize) -> usize {
    network.tensors[tensor].channels.next_multiple_of(BLOCK)
}

/// The plan of a network: large convolutions write over their source where that saves memory.
pub(super) fn plan(
    network: Network,
    kernels: &Kernels,
    threads: usize,
    method: Method,
) -> Result<Plan> {
    let mut possible = Vec::new();
    for (number, op) in network.ops.iter().enumerate() {
        let Op::Conv(conv) = op else { continue };
        let path = Path::new(&network, conv, kernels, method);
        if let Some(distance) = path.displacement(&network, threads) {
            possible.push(Displacement { op: number, distance });
        }
    }
    Plan::displacing(network, &possible)
}

/// What a loaded network occupies, without loading it.
pub(super) fn memory(
    plan: &Plan,
    folds: usize,
    kernels: &Kernels,
    threads: usize,
) -> Vec<MemoryPart> {
    let network = &plan.network;
    let paths: Vec<Path> = convs(network, kernels).collect();
    let most = most_scratch(&paths);
    let weights: usize = paths.iter().map(Path::weight_values).sum();
    let partials = paths.iter().map(Path::partials).max().unwrap_or(0);
    let coefficients: usize = network
        .ops
        .iter()
        .flat_map(normalizations)
        .map(|(tensor, _)| Coefficients::bytes(padded(network, tensor)))
        .sum();
    let statistics: usize = network
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::Conv(conv) => matches!(conv.epilogue, Epilogue::Statistics(_))
                .then(|| padded(network, conv.output.0)),
            _ => None,
        })
        .sum();
    let vectors: usize = network
        .parameters
        .iter()
        .filter(|parameter| parameter.shape.len() == 1)
        .map(|parameter| parameter.shape[0])
        .sum();
    let weights = 4 * folds as u64 * (weights + vectors) as u64 + Head::bytes(network, folds);
    let scratch = 4 * threads as u64 * (most[0] + most[1]) as u64
        + coefficients as u64
        + ((partials + statistics) * size_of::<Partial>()) as u64;
    vec![
        MemoryPart::new("activations of a tile", (kernels.value_bytes * plan.arena) as u64),
        MemoryPart::new("weights", weights),
        MemoryPart::new("scratch memory of the kernels", scratch),
    ]
}

fn convs<'a>(network: &'a Network, kernels: &'a Kernels) -> impl Iterator<Item = Path> + use<'a> {
    network.ops.iter().filter_map(|op| match op {
        Op::Conv(conv) => Some(Path::new(network, conv, kernels, Method::Fastest)),
        _ => None,
    })
}

fn most_scratch<'a>(paths: impl IntoIterator<Item = &'a Path>) -> [usize; 2] {
    paths.into_iter().fold([0, 0], |most, path| {
        let values = path.scratch_values();
        [most[0].max(values[0]), most[1].max(values[1])]
    })
}

impl Forward {
    pub(super) fn load(
        plan: Arc<Plan>,
        weights: &dyn Weights,
        kernels: &Kernels,
        threads: usize,
        method: Method,
    ) -> Result<Self> {
        let network = &plan.network;
        let folds = weights.folds();
        let mut vectors = vec![vec![Vec::new(); network.parameters.len()]; folds];
        let mut layers = Vec::new();
        for (number, op) in network.ops.iter().enumerate() {
            let mut coefficients = Vec::new();
            for (tensor, normalization) in normalizations(op) {
                coefficients.push(Coefficients::new(padded(network, tensor))?);
                let Some(Affine { scale, shift }) = normalization.affine else { continue };
                for (fold, vectors) in vectors.iter_mut().enumerate() {
                    for id in [scale, shift] {
                        vectors[id.0] = weights.parameter(fold, id)?.into_owned();
                    }
                }
            }
            layers.push(match op {
                Op::Conv(conv) => {
                    let path = Path::new(network, conv, kernels, method);
                    let displaced = plan.displaced.iter().find(|to| to.op == number);
                    let least = path.displacement(network, threads);
                    if displaced.is_some_and(|to| least.is_none_or(|least| to.distance < least)) {
                        return Err(another_device_s_plan());
                    }
                    let under_way = displaced.map(|_| path.task_row().under_way(threads));
                    let pack = |fold| {
                        let bias = conv.bias.map(|id| weights.parameter(fold, id)).transpose()?;
                        path.pack(&weights.parameter(fold, conv.weight)?, bias.as_deref())
                    };
                    let weights = (0..folds).map(pack).collect::<Result<_>>()?;
                    Layer::Conv { path, under_way, weights, coefficients }
                }
                Op::Join(join) => Layer::Join { join: join.clone(), coefficients },
                Op::AveragePool(pool) => Layer::AveragePool { pool: pool.clone(), coefficients },
            });
        }
        let paths = || {
            layers.iter().filter_map(|layer| match layer {
                Layer::Conv { path, .. } => Some(path),
                _ => None,
            })
        };
        let most = most_scratch(paths());
        let scratch = (0..threads).map(|_| Scratch::new(most)).collect::<Result<_>>()?;
        let partials = paths().map(Path::partials).max().unwrap_or(0);
        let partials = filled("statistics", partials, Partial::default())?;
        let mut statistics = vec![Vec::new(); network.statistics];
        for op in &network.ops {
            if let Op::Conv(Conv { epilogue: Epilogue::Statistics(id), output, .. }) = op {
                statistics[id.0] = vec![Partial::default(); padded(network, output.0)];
            }
        }
        let head = Head::load(network, weights)?;
        let value_bytes = kernels.value_bytes;
        let arena = Buffer::zeroed("arena of activations", (plan.arena * value_bytes).div_ceil(4))?;
        Ok(Self { plan, layers, vectors, arena, value_bytes, scratch, partials, statistics, head })
    }

    /// Voxels of the patch along each axis.
    pub(super) fn patch(&self) -> [usize; 3] {
        self.plan.network.patch()
    }

    /// The patch the network reads, `[channels][s0][s1][s2]`.
    pub(super) fn input_mut(&mut self) -> Input<'_> {
        let input = self.plan.network.input.0;
        let tensor = &self.plan.network.tensors[input];
        let start = self.plan.offsets[input];
        let values = start..start + tensor.channels * tensor.shape.iter().product::<usize>();
        let arena = self.arena.values_mut();
        match self.value_bytes {
            4 => Input::Single(&mut arena[values]),
            _ => Input::Bf16(&mut bytemuck::cast_slice_mut(arena)[values]),
        }
    }

    /// The features below the head, `[s0][ceil(channels / 16)][s1][s2][16]`.
    pub(super) fn output(&self) -> Values {
        let output = self.plan.network.output.0;
        Values::of(&self.arena, self.value_bytes, self.plan.offsets[output])
    }

    #[cfg(test)]
    pub(super) fn arena_values(&self) -> Vec<f32> {
        let arena = self.arena.values();
        match self.value_bytes {
            4 => arena.to_vec(),
            _ => bytemuck::cast_slice(arena).iter().map(|value: &bf16| value.to_f32()).collect(),
        }
    }

    #[cfg(test)]
    pub(super) fn statistics(&self, id: StatisticsId) -> &[Partial] {
        &self.statistics[id.0]
    }

    /// Runs the network of one fold.
    pub(super) fn run(&mut self, fold: usize, kernels: &Kernels, pool: &Pool) {
        self.run_while(fold, kernels, pool, |_| true);
    }

    /// Seconds of [`Forward::run`], from as many operations as take about `limit_seconds`.
    pub(super) fn measure(&mut self, limit_seconds: f64, kernels: &Kernels, pool: &Pool) -> f64 {
        let layers = self.layers.iter();
        let work: Vec<f64> = layers.map(|layer| layer.multiplications(&self.plan)).collect();
        let started = Instant::now();
        let mut done = 0.0;
        self.run_while(0, kernels, pool, |next| {
            let go_on = next == 0 || started.elapsed().as_secs_f64() < limit_seconds;
            if go_on {
                done += work[next];
            }
            go_on
        });
        let share = done / work.iter().sum::<f64>();
        started.elapsed().as_secs_f64() / share.max(f64::MIN_POSITIVE)
    }

    /// Runs the operations of one fold, each if `go_on(its number)`.
    fn run_while(
        &mut self,
        fold: usize,
        kernels: &Kernels,
        pool: &Pool,
        mut go_on: impl FnMut(usize) -> bool,
    ) {
        let Self {
            plan, layers, vectors, arena, value_bytes, scratch, partials, statistics, ..
        } = self;
        let network = &plan.network;
        let arena = Values::new(arena, *value_bytes);
        let scratch = Shared(scratch.as_mut_ptr());
        let vector = |id: ParameterId| vectors[fold][id.0].as_slice();
        for (number, (layer, op)) in layers.iter_mut().zip(&network.ops).enumerate() {
            if !go_on(number) {
                return;
            }
            let (Layer::Conv { coefficients, .. }
            | Layer::Join { coefficients, .. }
            | Layer::AveragePool { coefficients, .. }) = layer;
            for (coefficients, (tensor, how)) in coefficients.iter_mut().zip(normalizations(op)) {
                let of_tensor = how.statistics.map(|id| statistics[id.0].as_slice());
                let affine = how.affine.map(|affine| [affine.scale, affine.shift].map(vector));
                coefficients.update(network.tensors[tensor].channels, of_tensor, affine, &how);
            }
            match layer {
                Layer::Conv { path, under_way, weights, coefficients } => {
                    let run = ConvRun {
                        network,
                        kernels,
                        arena,
                        offsets: &plan.offsets,
                        weights: &weights[fold],
                        coefficients,
                        partials: Shared(partials.as_mut_ptr()),
                    };
                    let body = |task, worker| {
                        // SAFETY: the kernels are the processor's own; the plan placed the
                        // tensors so that the output overlaps no source, or is displaced as far
                        // as the tasks that are under way need; each worker has its scratch
                        // memory, and the pool hands out each task once.
                        unsafe {
                            path.run_task(&run, &mut *scratch.get().add(worker), task);
                        }
                    };
                    match *under_way {
                        Some(rows) => {
                            pool.run_rows(path.tasks(), path.task_row().tasks, rows, &body);
                        }
                        None => pool.run(path.tasks(), &body),
                    }
                    if let Epilogue::Statistics(id) = path.conv().epilogue {
                        path.merge_partials(partials, &mut statistics[id.0]);
                    }
                }
                Layer::Join { join, coefficients } => {
                    run_join(join, coefficients, plan, kernels, arena, pool);
                }
                Layer::AveragePool { pool: op, coefficients } => {
                    run_pool(op, coefficients.first(), plan, kernels, arena, pool);
                }
            }
        }
    }
}

fn run_join(
    join: &Join,
    coefficients: &[Coefficients],
    plan: &Plan,
    kernels: &Kernels,
    arena: Values,
    pool: &Pool,
) {
    let tensor = &plan.network.tensors[join.main.0];
    let plane = tensor.shape[1] * tensor.shape[2];
    let blocks = tensor.channels.div_ceil(BLOCK);
    pool.run(tensor.shape[0] * blocks, &|task, _| {
        let (place, block) = (task * plane * BLOCK, task % blocks);
        // SAFETY: the tensors have one shape; tasks touch planes of their own, and the output is
        // `main` itself or overlaps neither source.
        unsafe {
            let at = |id: TensorId| arena.at(plan.offsets[id.0] + place);
            (kernels.join_row)(&JoinRow {
                main: at(join.main),
                shortcut: join.shortcut.map(|shortcut| {
                    let affine = coefficients.get(1).map(|c| c.affine(block));
                    (at(shortcut.tensor), affine)
                }),
                output: at(join.output),
                voxels: plane,
                affine: coefficients[0].affine(block),
            });
        }
    });
}

fn run_pool(
    op: &AveragePool,
    coefficients: Option<&Coefficients>,
    plan: &Plan,
    kernels: &Kernels,
    arena: Values,
    pool: &Pool,
) {
    let (from, to) = (op.source.tensor.0, op.output.0);
    let [_, rows, columns] = plan.network.tensors[from].shape;
    let target = &plan.network.tensors[to];
    let [planes, target_rows, count] = target.shape;
    let blocks = target.channels.div_ceil(BLOCK);
    pool.run(planes * blocks, &|task, _| {
        let (plane, block) = (task / blocks, task % blocks);
        for row in 0..target_rows {
            let first = (plane * op.size[0] * blocks + block) * rows + row * op.size[1];
            // SAFETY: boxes lie in the source, whose size is at least that of the output times
            // the box's; tasks write planes of their own, and the output overlaps no source.
            unsafe {
                (kernels.pool_row)(&PoolRow {
                    from: arena.at(plan.offsets[from] + first * columns * BLOCK),
                    row: columns,
                    plane: blocks * rows * columns,
                    size: op.size,
                    to: arena.at(plan.offsets[to] + (task * target_rows + row) * count * BLOCK),
                    count,
                    affine: coefficients.map(|coefficients| coefficients.affine(block)),
                });
            }
        }
    });
}
