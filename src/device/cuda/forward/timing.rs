//! How long each operation of a network takes, for benchmarks.

use super::{Forward, Work};
use crate::base::Result;
use crate::device::cuda::driver::{Address, Event};
use crate::device::cuda::schedule::value_bytes;
use crate::device::cuda::{Gpu, LayerTime};
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{Conv, Network, Op, TensorId};

impl Forward {
    /// The median time of each operation over `rounds` passes of the first fold, in the order they
    /// run. What is measured includes the pause between two launches.
    pub(in crate::device::cuda) fn layer_times(
        &self,
        gpu: &Gpu,
        rounds: usize,
    ) -> Result<Vec<LayerTime>> {
        let network = &self.plan.network;
        let doing = "timing the network's operations";
        let steps = &self.folds[0].steps;
        let begins: Vec<usize> = (0..steps.len()).filter(|&at| self.begins(at)).collect();
        let events: Vec<Event> =
            (0..=begins.len()).map(|_| Event::new(gpu.context())).collect::<Result<_>>()?;
        let mut seconds = vec![Vec::new(); begins.len()];
        for _ in 0..rounds.max(1) {
            let mut reached = 0;
            for (at, step) in steps.iter().enumerate() {
                if begins.get(reached) == Some(&at) {
                    events[reached].record(&gpu.stream)?;
                    reached += 1;
                }
                self.launch(gpu, step)?;
            }
            events[reached].record(&gpu.stream)?;
            events[reached].wait(doing)?;
            for (times, pair) in seconds.iter_mut().zip(events.windows(2)) {
                times.push(pair[1].seconds_since(&pair[0])?);
            }
        }
        let ops = network.ops.iter().zip(begins);
        let mut layers: Vec<LayerTime> = Vec::new();
        // The layer that has made the shortcut of the block it begins.
        let mut maker = None;
        for ((op, at), mut times) in ops.zip(seconds) {
            times.sort_by(f64::total_cmp);
            let mut layer = LayerTime {
                name: name(network, op),
                kernel: self.kernels[steps[at].kernel].name().into(),
                seconds: times[times.len() / 2],
                operations: operations(network, op),
                bytes: self.bytes_moved(op),
            };
            match (op, &steps[at].work, maker) {
                (_, Work::Convolution(p), _) if p.shortcut.output != Address::NULL => {
                    maker = Some(layers.len());
                }
                (Op::Conv(conv), Work::Join(_), Some(maker)) => {
                    let weights = self.bytes_of(parameter(network, conv));
                    let written = self.bytes_of(self.values(conv.output));
                    layers[maker].operations += std::mem::take(&mut layer.operations);
                    layers[maker].bytes += weights + written;
                    layer.bytes = 3.0 * written;
                }
                _ => {}
            }
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Whether a step is the first of an operation; others finish sums and statistics.
    fn begins(&self, at: usize) -> bool {
        let step = &self.folds[0].steps[at];
        match step.work {
            Work::Convolution(_) => self.kernels[step.kernel].name() != "conv_finish",
            Work::Join(_) | Work::AveragePool(_) => true,
            Work::Coefficients(_) => false,
        }
    }

    /// Bytes of each tensor and weight that an operation reads or writes, each counted once.
    fn bytes_moved(&self, op: &Op) -> f64 {
        let network = &self.plan.network;
        let values = |id: TensorId| self.values(id);
        let all = match op {
            Op::Conv(conv) => {
                let read: usize = conv.sources.iter().map(|source| values(source.tensor)).sum();
                let main = match conv.epilogue {
                    crate::net::Epilogue::AddNormalized { main, .. } => values(main),
                    _ => 0,
                };
                read + main + values(conv.output) + parameter(network, conv)
            }
            Op::Join(join) => {
                let shortcut = join.shortcut.map_or(0, |shortcut| values(shortcut.tensor));
                values(join.main) + shortcut + values(join.output)
            }
            Op::AveragePool(pool) => values(pool.source.tensor) + values(pool.output),
        };
        self.bytes_of(all)
    }

    fn bytes_of(&self, values: usize) -> f64 {
        (values * value_bytes(self.precision)) as f64
    }

    /// Values of a tensor as it is stored.
    fn values(&self, id: TensorId) -> usize {
        let network = &self.plan.network;
        let tensor = &network.tensors[id.0];
        // The input is planar; other tensors have strings of channels.
        let channels = match id == network.input {
            true => tensor.channels,
            false => tensor.channels.next_multiple_of(CHANNEL_BLOCK),
        };
        channels * tensor.shape.iter().product::<usize>()
    }
}

fn parameter(network: &Network, conv: &Conv) -> usize {
    network.parameters[conv.weight.0].shape.iter().product()
}

/// Two for each multiplication of a convolution.
fn operations(network: &Network, op: &Op) -> f64 {
    let Op::Conv(conv) = op else { return 0.0 };
    let voxels: usize = network.tensors[conv.output.0].shape.iter().product();
    let taps: usize = conv.expand.iter().flatten().product();
    2.0 * (parameter(network, conv) / taps) as f64 * voxels as f64
}

/// The name of its weights without their ending; of what has none, that of the branch it ends.
fn name(network: &Network, op: &Op) -> String {
    let of = |conv: &Conv| {
        let name = &network.parameters[conv.weight.0].name;
        name.strip_suffix(".weight").unwrap_or(name).to_string()
    };
    let written_by = |tensor: TensorId| {
        let mut convs = network.ops.iter().filter_map(|op| match op {
            Op::Conv(conv) if conv.output == tensor => Some(of(conv)),
            _ => None,
        });
        convs.next_back().unwrap_or_default()
    };
    match op {
        Op::Conv(conv) => of(conv),
        Op::Join(join) => {
            let main = written_by(join.main);
            let block = main.rsplit_once('.').map_or("", |(block, _)| block);
            format!("{block}.join")
        }
        Op::AveragePool(pool) => format!("{}.pool", written_by(pool.source.tensor)),
    }
}
