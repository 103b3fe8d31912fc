//! A network made ready to run on a GPU: weights in the kernels' order, memory, and for each fold a
//! graph of all launches.

mod timing;

use std::sync::Arc;
use std::time::Instant;

use super::Gpu;
use super::driver::{Address, Buffer, Event, Graph, Kernel, Launch};
use super::packing::pack;
use super::parameters::{self, AveragePool, Convolution, Join, Partial};
use super::schedule::{Coefficients, Packed, PackedShortcut, Schedule, value_bytes};
use super::tiles::STRING;
use crate::base::{Error, Result};
use crate::device::Precision;
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{Affine, Conv, Epilogue, Normalization, Op, Plan, TensorId, Weights};

/// Threads of a block, and voxels that a block makes.
const COEFFICIENTS_THREADS: u32 = 256;
const JOIN_THREADS: u32 = 256;
const JOIN_VOXELS: usize = 1024;
const POOL_THREADS: u32 = 256;

/// One launch.
struct Step {
    /// Of [`Forward::kernels`].
    kernel: usize,
    launch: Launch,
    work: Work,
    /// How long it takes, about, in multiplications.
    multiplications: f64,
}

enum Work {
    Convolution(Box<Convolution>),
    Coefficients(parameters::Coefficients),
    Join(Join),
    AveragePool(AveragePool),
}

/// One fold's network.
struct Fold {
    weights: Buffer<u8>,
    vectors: Buffer<f32>,
    steps: Vec<Step>,
    graph: Option<Graph>,
}

/// A loaded network.
pub(super) struct Forward {
    plan: Arc<Plan>,
    precision: Precision,
    kernels: Vec<Kernel>,
    // Graphs go first, then the memory they point to.
    folds: Vec<Fold>,
    arena: Buffer<u8>,
    memory: Scratch,
}

/// Memory that all folds use in turn.
struct Scratch {
    coefficients: Buffer<f32>,
    partials: Buffer<Partial>,
    sums: Buffer<f32>,
    /// Of a block whose first convolution has made it.
    shortcut: Buffer<u8>,
}

impl Forward {
    /// Packs the weights, allocates everything, and records the launches of each fold.
    ///
    /// # Errors
    /// If memory runs out, the weights can't be read, or no kernel computes an operation.
    pub(super) fn load(gpu: &Gpu, plan: Arc<Plan>, weights: &dyn Weights) -> Result<Self> {
        let (precision, stream) = (gpu.precision, &gpu.stream);
        let schedule = Schedule::of(&plan, gpu)?;
        let context = stream.context();
        let memory = Scratch {
            coefficients: Buffer::new(context, "coefficients", schedule.coefficient_values)?,
            partials: Buffer::new(context, "statistics", schedule.partials)?,
            sums: Buffer::new(context, "sums of convolutions", schedule.sums)?,
            shortcut: Buffer::new(context, "a shortcut", schedule.shortcut)?,
        };
        let arena = Buffer::new(context, "the activations of a tile", schedule.arena)?;
        let mut forward =
            Self { plan, precision, kernels: Vec::new(), folds: Vec::new(), arena, memory };
        for fold in 0..weights.folds() {
            let fold = forward.load_fold(gpu, &schedule, weights, fold)?;
            forward.folds.push(fold);
        }
        for fold in 0..forward.folds.len() {
            let graph = gpu.stream.capture(|| {
                forward.folds[fold].steps.iter().try_for_each(|step| forward.launch(gpu, step))
            })?;
            forward.folds[fold].graph = Some(graph);
        }
        Ok(forward)
    }

    /// The patch that the network reads, `[channels][s0][s1][s2]` in the device's precision.
    pub(super) fn input(&self) -> Address {
        self.address(self.plan.network.input)
    }

    /// The features below the head, `[channels / 8][s0][s1][s2][8]`, the channels padded to a
    /// multiple of 16.
    pub(super) fn output(&self) -> Address {
        self.address(self.plan.network.output)
    }

    /// Runs the network of one fold, in the order of the stream.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn run(&self, gpu: &Gpu, fold: usize) -> Result<()> {
        match &self.folds[fold].graph {
            Some(graph) => graph.launch(&gpu.stream),
            None => Err(Error::Internal("the network was not recorded".into())),
        }
    }

    /// Seconds of [`Forward::run`]: of a second run, if the first took less than `limit_seconds`,
    /// or else from as many operations as took so long.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn measure(&self, gpu: &Gpu, limit_seconds: f64) -> Result<f64> {
        let doing = "measuring the network's speed";
        let steps = &self.folds[0].steps;
        gpu.stream.wait(doing)?;
        let started = Instant::now();
        let mut done = 0.0;
        for step in steps {
            self.launch(gpu, step)?;
            gpu.stream.wait(doing)?;
            done += step.multiplications;
            let seconds = started.elapsed().as_secs_f64();
            if seconds > limit_seconds {
                let all: f64 = steps.iter().map(|step| step.multiplications).sum();
                return Ok(seconds * all / done);
            }
        }
        let [begin, end] = [Event::new(gpu.context())?, Event::new(gpu.context())?];
        begin.record(&gpu.stream)?;
        self.run(gpu, 0)?;
        end.record(&gpu.stream)?;
        end.wait(doing)?;
        end.seconds_since(&begin)
    }

    #[cfg(test)]
    pub(super) fn arena(&self) -> &Buffer<u8> {
        &self.arena
    }

    /// Bytes of device memory in all.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let Scratch { coefficients, partials, sums, shortcut } = &self.memory;
        let folds = self.folds.iter().map(|fold| fold.weights.bytes() + fold.vectors.bytes());
        let scratch = coefficients.bytes() + partials.bytes() + sums.bytes() + shortcut.bytes();
        self.arena.bytes() + scratch + folds.sum::<u64>()
    }

    fn address(&self, tensor: TensorId) -> Address {
        self.arena.at(self.plan.offsets[tensor.0] * value_bytes(self.precision))
    }

    fn launch(&self, gpu: &Gpu, step: &Step) -> Result<()> {
        let (kernel, stream) = (&self.kernels[step.kernel], &gpu.stream);
        // SAFETY: each kernel is launched with its own structure; addresses lead to buffers of
        // `self` that `Schedule` sized for this network; the plan placed the tensors so that no
        // operation overwrites what it reads, but for the end of a residual block in its place; all
        // work goes through one stream.
        unsafe {
            match &step.work {
                Work::Convolution(p) => kernel.launch(stream, step.launch, &**p),
                Work::Coefficients(p) => kernel.launch(stream, step.launch, p),
                Work::Join(p) => kernel.launch(stream, step.launch, p),
                Work::AveragePool(p) => kernel.launch(stream, step.launch, p),
            }
        }
    }

    fn load_fold(
        &mut self,
        gpu: &Gpu,
        schedule: &Schedule,
        source: &dyn Weights,
        fold: usize,
    ) -> Result<Fold> {
        let context = gpu.context();
        let weights = Buffer::new(context, "the network's weights", schedule.weights)?;
        let mut vectors = vec![0.0; schedule.vectors];
        let plan = self.plan.clone();
        for (op, packed) in plan.network.ops.iter().zip(&schedule.convs) {
            let (Op::Conv(conv), Some(packed)) = (op, packed) else { continue };
            let Packed { tiles, shortcut, .. } = packed;
            let mut convs = vec![(conv, &tiles.sizes, packed.weights, packed.bias)];
            if let Some(PackedShortcut { op, sizes, weights, bias }) = shortcut
                && let Op::Conv(conv) = &plan.network.ops[*op]
            {
                convs.push((conv, sizes, *weights, *bias));
            }
            for (conv, sizes, weights_at, bias_at) in convs {
                let values = pack(sizes, tiles.kernel, &source.parameter(fold, conv.weight)?);
                weights.write(&gpu.stream, weights_at, values.bytes())?;
                if let Some(bias) = conv.bias {
                    let bias = source.parameter(fold, bias)?;
                    vectors[bias_at..][..bias.len()].copy_from_slice(&bias);
                }
            }
        }
        for coefficients in &schedule.coefficients {
            let into = &mut vectors[coefficients.vectors..];
            let (channels, padded) = (coefficients.channels, coefficients.padded);
            if let Some(Affine { scale, shift }) = coefficients.affine {
                into[..channels].copy_from_slice(&source.parameter(fold, scale)?);
                into[padded..][..channels].copy_from_slice(&source.parameter(fold, shift)?);
            } else if coefficients.statistics.is_none() {
                into[..channels].fill(1.0);
            }
        }
        let vectors = Buffer::of(&gpu.stream, "the network's vectors", &vectors)?;
        let mut fold = Fold { weights, vectors, steps: Vec::new(), graph: None };
        for (op, packed) in plan.network.ops.iter().zip(&schedule.convs) {
            match (op, packed) {
                (Op::Conv(conv), Some(packed)) => {
                    self.add_conv(gpu, schedule, &mut fold, conv, packed)?;
                }
                (Op::Join(join), _) => {
                    let pending = self.pending(schedule, &fold, join.main, &join.normalization)?;
                    let shortcut = join.shortcut.as_ref();
                    let how = shortcut.and_then(|from| Some((from.tensor, from.normalization?)));
                    let shortcut_pending = match how {
                        Some((tensor, how)) => self.pending(schedule, &fold, tensor, &how)?,
                        None => NOTHING_PENDING,
                    };
                    let address = shortcut.map_or(Address::NULL, |s| self.address(s.tensor));
                    let main = (join.main, pending);
                    self.add_join(gpu, &mut fold, main, (address, shortcut_pending), join.output)?;
                }
                (Op::AveragePool(pool), _) => {
                    let from = pool.source.tensor;
                    let pending = match &pool.source.normalization {
                        Some(how) => self.pending(schedule, &fold, from, how)?,
                        None => NOTHING_PENDING,
                    };
                    let (voxels, channels) = self.size(pool.output);
                    let shape = |tensor: TensorId| self.plan.network.tensors[tensor.0].shape;
                    let work = Work::AveragePool(AveragePool {
                        values: self.address(from),
                        pending,
                        output: self.address(pool.output),
                        input: shape(from).into(),
                        output_shape: shape(pool.output).into(),
                        size: pool.size.map(|size| size as i32),
                        padded_channels: channels as i32,
                    });
                    let blocks = voxels.div_ceil(POOL_THREADS as usize);
                    let launch = Launch {
                        grid: [blocks as u32, (channels / STRING) as u32, 1],
                        threads: POOL_THREADS,
                        shared_bytes: 0,
                    };
                    let name = gpu.named("pool_half", "pool_float");
                    self.add(gpu, &mut fold, name, launch, work, (voxels * channels) as f64)?;
                }
                (Op::Conv(conv), None) => {
                    let Epilogue::AddNormalized { main, normalization } = &conv.epilogue else {
                        return Err(Error::Internal("a convolution was not scheduled".into()));
                    };
                    // The block's first convolution has made its values.
                    let main = (*main, self.pending(schedule, &fold, *main, normalization)?);
                    let shortcut = (self.memory.shortcut.address(), NOTHING_PENDING);
                    self.add_join(gpu, &mut fold, main, shortcut, conv.output)?;
                }
            }
        }
        Ok(fold)
    }

    /// The end of a residual block: of `main` and the shortcut, each with what is pending on it.
    fn add_join(
        &mut self,
        gpu: &Gpu,
        fold: &mut Fold,
        (main, main_pending): (TensorId, parameters::Pending),
        (shortcut, shortcut_pending): (Address, parameters::Pending),
        output: TensorId,
    ) -> Result<()> {
        let (voxels, channels) = self.size(output);
        let work = Work::Join(Join {
            main: self.address(main),
            main_pending,
            shortcut,
            shortcut_pending,
            output: self.address(output),
            voxels: voxels as i32,
            padded_channels: channels as i32,
        });
        let launch = Launch {
            grid: [voxels.div_ceil(JOIN_VOXELS) as u32, (channels / STRING) as u32, 1],
            threads: JOIN_THREADS,
            shared_bytes: 0,
        };
        let name = gpu.named("join_half", "join_float");
        self.add(gpu, fold, name, launch, work, (voxels * channels) as f64)
    }

    fn add_conv(
        &mut self,
        gpu: &Gpu,
        schedule: &Schedule,
        fold: &mut Fold,
        conv: &Conv,
        packed: &Packed,
    ) -> Result<()> {
        let Packed { tiles, weights, bias, shortcut } = packed;
        let sizes = &tiles.sizes;
        let mut work = Convolution {
            weights: fold.weights.at(*weights),
            output: self.address(conv.output),
            partials: self.memory.partials.address(),
            sums: self.memory.sums.address(),
            input: sizes.input.into(),
            output_shape: sizes.output.into(),
            source_count: conv.sources.len() as i32,
            output_channels: sizes.padded_outputs() as i32,
            kernel: sizes.kernel.map(|taps| taps as i32),
            stride: sizes.stride.map(|stride| stride as i32),
            expand: sizes.expand.map(|expand| expand as i32),
            tiles: tiles.tile.count(sizes.domain()).map(|tiles| tiles as i32),
            tile_planes: tiles.tile.planes as i32,
            tile_rows: tiles.tile.rows as i32,
            plane_groups: tiles.tile.plane_groups as i32,
            brick: tiles.tile.brick(tiles.kernel, sizes),
            shares_lines: i32::from(tiles.tile.shares_lines(sizes)),
            splits: tiles.splits as i32,
            ..Convolution::default()
        };
        if conv.bias.is_some() {
            work.bias = fold.vectors.at(*bias);
        }
        if let Some(PackedShortcut { op, weights, bias, .. }) = shortcut {
            work.shortcut.weights = fold.weights.at(*weights);
            if matches!(&self.plan.network.ops[*op], Op::Conv(conv) if conv.bias.is_some()) {
                work.shortcut.bias = fold.vectors.at(*bias);
            }
            work.shortcut.output = self.memory.shortcut.address();
            work.shortcut.sums = self.memory.sums.at(tiles.sums());
        }
        let channels = sizes.stored_inputs();
        for ((into, source), channels) in work.sources.iter_mut().zip(&conv.sources).zip(channels) {
            *into = parameters::Source {
                values: self.address(source.tensor),
                pending: match &source.normalization {
                    Some(how) => self.pending(schedule, fold, source.tensor, how)?,
                    None => NOTHING_PENDING,
                },
                shape: self.plan.network.tensors[source.tensor.0].shape.into(),
                channels: channels as i32,
                upsample: source.upsample.map(|times| times as i32),
                planar: i32::from(sizes.planar),
            };
        }
        work.epilogue = match &conv.epilogue {
            Epilogue::Plain => parameters::EPILOGUE_PLAIN,
            Epilogue::Statistics(_) => parameters::EPILOGUE_STATISTICS,
            Epilogue::AddNormalized { main, normalization } => {
                work.main = self.address(*main);
                work.main_pending = self.pending(schedule, fold, *main, normalization)?;
                parameters::EPILOGUE_ADD_NORMALIZED
            }
        };
        let boxed = |work: &Convolution| Work::Convolution(Box::new(*work));
        let more = shortcut.as_ref().map_or(0.0, |shortcut| shortcut.sizes.multiplications());
        let multiplications = sizes.multiplications() + more;
        self.add(gpu, fold, tiles.kernel.name(), tiles.launch, boxed(&work), multiplications)?;
        if let Some(finish) = tiles.finish {
            self.add(gpu, fold, "conv_finish", finish, boxed(&work), 0.0)?;
        }
        let Epilogue::Statistics(id) = conv.epilogue else { return Ok(()) };
        for coefficients in schedule.coefficients.iter().filter(|c| c.statistics == Some(id)) {
            self.add_coefficients(gpu, fold, coefficients, tiles.partial_tiles())?;
        }
        Ok(())
    }

    fn add_coefficients(
        &mut self,
        gpu: &Gpu,
        fold: &mut Fold,
        coefficients: &Coefficients,
        tiles: usize,
    ) -> Result<()> {
        let Coefficients { vectors, channels, padded, place, epsilon, .. } = *coefficients;
        let mut work = parameters::Coefficients {
            partials: self.memory.partials.address(),
            coefficients: self.memory.coefficients.at(place),
            tiles: tiles as i32,
            channels: channels as i32,
            padded_channels: padded as i32,
            epsilon,
            ..parameters::Coefficients::default()
        };
        if coefficients.affine.is_some() {
            work.scale = fold.vectors.at(vectors);
            work.shift = fold.vectors.at(vectors + padded);
        }
        let launch = Launch {
            grid: [padded as u32, 1, 1],
            threads: COEFFICIENTS_THREADS,
            shared_bytes: COEFFICIENTS_THREADS * size_of::<f64>() as u32,
        };
        self.add(gpu, fold, "coefficients", launch, Work::Coefficients(work), 0.0)
    }

    fn add(
        &mut self,
        gpu: &Gpu,
        fold: &mut Fold,
        name: &str,
        launch: Launch,
        work: Work,
        multiplications: f64,
    ) -> Result<()> {
        let known = self.kernels.iter().position(|kernel| kernel.name() == name);
        let kernel = match known {
            Some(kernel) => kernel,
            None => {
                self.kernels.push(gpu.kernel(name)?);
                self.kernels.len() - 1
            }
        };
        self.kernels[kernel].prepare(launch)?;
        fold.steps.push(Step { kernel, launch, work, multiplications });
        Ok(())
    }

    /// Voxels and padded channels of a tensor.
    fn size(&self, tensor: TensorId) -> (usize, usize) {
        let tensor = &self.plan.network.tensors[tensor.0];
        (tensor.shape.iter().product(), tensor.channels.next_multiple_of(CHANNEL_BLOCK))
    }

    fn pending(
        &self,
        schedule: &Schedule,
        fold: &Fold,
        tensor: TensorId,
        how: &Normalization,
    ) -> Result<parameters::Pending> {
        let Some(found) = schedule.find(tensor, how) else {
            return Err(Error::Internal("a normalisation was not scheduled".into()));
        };
        let coefficients = match found.statistics {
            Some(_) => self.memory.coefficients.at(found.place),
            None => fold.vectors.at(found.vectors),
        };
        let padded_channels = found.padded as i32;
        Ok(parameters::Pending { coefficients, padded_channels, slope: how.slope })
    }
}

const NOTHING_PENDING: parameters::Pending =
    parameters::Pending { coefficients: Address::NULL, padded_channels: 0, slope: 1.0 };
