//! What a network needs on a GPU, worked out from its plan: how each convolution is cut, and where
//! weights, vectors and coefficients lie. Nothing is allocated here.

use super::Gpu;
use super::packing::packed_bytes;
use super::sizes::ConvSizes;
use super::tiles::{ConvTiles, Shortcuts, together};
use crate::base::Result;
use crate::device::{MemoryPart, Precision};
use crate::net::plan::CHANNEL_BLOCK;
use crate::net::{
    Affine, Conv, Epilogue, Network, Normalization, Op, Plan, Reading, StatisticsId, TensorId,
};

/// Weights begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;

/// Factors and offsets of one tensor's normalisation, which any number of operations apply.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Coefficients {
    pub(super) tensor: TensorId,
    pub(super) statistics: Option<StatisticsId>,
    pub(super) affine: Option<Affine>,
    pub(super) epsilon: f32,
    pub(super) channels: usize,
    pub(super) padded: usize,
    /// Of the scales, then the shifts, among the fold's vectors. Without statistics these are the
    /// coefficients; with them, there are none where the normalisation is not affine. `[2][padded]`
    /// either way.
    pub(super) vectors: usize,
    /// With statistics: of `[2][padded]` among the coefficients, which every pass computes anew.
    pub(super) place: usize,
}

/// A convolution, and where its weights (bytes) and its bias (values) lie in a fold's memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packed {
    pub(super) tiles: ConvTiles,
    pub(super) weights: usize,
    pub(super) bias: usize,
    /// The convolution of the block's shortcut that is made together with it.
    pub(super) shortcut: Option<PackedShortcut>,
}

/// As [`Packed`], of a convolution of one tap that another one makes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PackedShortcut {
    /// Its operation: what is left of that is to add its values to the main branch.
    pub(super) op: usize,
    pub(super) sizes: ConvSizes,
    pub(super) weights: usize,
    pub(super) bias: usize,
}

/// What a plan needs.
pub(super) struct Schedule {
    /// For each operation; `None` if it is no convolution, or one that another one makes.
    pub(super) convs: Vec<Option<Packed>>,
    pub(super) coefficients: Vec<Coefficients>,
    /// Bytes of a fold's weights.
    pub(super) weights: usize,
    /// Values of a fold's vectors, of the coefficients, and of the splits' sums.
    pub(super) vectors: usize,
    pub(super) coefficient_values: usize,
    pub(super) sums: usize,
    /// Partial statistics of the operation that has the most.
    pub(super) partials: usize,
    /// Bytes of the activations.
    pub(super) arena: usize,
    /// Bytes of the largest shortcut that is kept until the end of its block.
    pub(super) shortcut: usize,
}

/// Bytes of a value of an activation.
pub(super) fn value_bytes(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        _ => 2,
    }
}

/// Every normalisation that an operation applies, with its tensor.
fn normalizations(op: &Op) -> Vec<(TensorId, Normalization)> {
    let reading = |reading: &Reading| Some((reading.tensor, reading.normalization?));
    let mut found = Vec::new();
    match op {
        Op::Conv(conv) => {
            found.extend(conv.sources.iter().filter_map(|s| Some((s.tensor, s.normalization?))));
            if let Epilogue::AddNormalized { main, normalization } = conv.epilogue {
                found.push((main, normalization));
            }
        }
        Op::Join(join) => {
            found.push((join.main, join.normalization));
            found.extend(join.shortcut.as_ref().and_then(reading));
        }
        Op::AveragePool(pool) => found.extend(reading(&pool.source)),
    }
    found
}

/// The convolution of the shortcut of a strided residual block, and which operation it is, if
/// operation `first` begins one: it reads the same with the same stride, and ends the block.
fn shortcut_of<'a>(network: &'a Network, first: usize, conv: &Conv) -> Option<(usize, &'a Conv)> {
    let strided = conv.stride != [1; 3] && conv.expand.is_none();
    let patch = conv.sources.iter().any(|source| source.tensor == network.input);
    if !strided || patch || !matches!(conv.epilogue, Epilogue::Statistics(_)) {
        return None;
    }
    let channels = |conv: &Conv| network.tensors[conv.output.0].channels;
    network.ops.iter().enumerate().skip(first + 1).find_map(|(at, op)| match op {
        Op::Conv(other)
            if other.sources == conv.sources
                && (other.kernel, other.stride, other.expand) == ([1; 3], conv.stride, None)
                && channels(other) == channels(conv)
                && matches!(other.epilogue, Epilogue::AddNormalized { .. }) =>
        {
            Some((at, other))
        }
        _ => None,
    })
}

impl Schedule {
    /// # Errors
    /// [`crate::base::Error::Unsupported`] if no kernel computes one of the convolutions.
    pub(super) fn of(plan: &Plan, gpu: &Gpu) -> Result<Self> {
        let multiprocessors = gpu.limits().multiprocessors as usize;
        Self::with(plan, gpu.precision, gpu.shortcuts, multiprocessors)
    }

    /// As [`Schedule::of`] for a GPU of so many multiprocessors.
    #[cfg(test)]
    pub(super) fn new(plan: &Plan, precision: Precision, multiprocessors: usize) -> Result<Self> {
        Self::with(plan, precision, Shortcuts::default(), multiprocessors)
    }

    fn with(
        plan: &Plan,
        precision: Precision,
        shortcuts: Shortcuts,
        multiprocessors: usize,
    ) -> Result<Self> {
        let network = &plan.network;
        let mut schedule = Self {
            convs: Vec::new(),
            coefficients: Vec::new(),
            weights: 0,
            vectors: 0,
            coefficient_values: 0,
            sums: 0,
            partials: 0,
            arena: plan.arena * value_bytes(precision),
            shortcut: 0,
        };
        // Operations whose convolution another one made.
        let mut made = vec![false; network.ops.len()];
        let mut kept_until = 0;
        for (at, op) in network.ops.iter().enumerate() {
            for (tensor, normalization) in normalizations(op) {
                schedule.add_coefficients(network, tensor, &normalization);
            }
            let packed = match op {
                Op::Conv(conv) if !made[at] => {
                    let tiles = ConvTiles::new(network, conv, precision, multiprocessors)?;
                    // There is room for one shortcut at a time.
                    let shared = match precision {
                        Precision::F16 if at >= kept_until => shortcut_of(network, at, conv),
                        _ => None,
                    };
                    let shared = match shared {
                        Some((op, shortcut)) => {
                            let own =
                                ConvTiles::new(network, shortcut, precision, multiprocessors)?;
                            together(&tiles, &own, shortcuts, multiprocessors)
                                .map(|both| (both, op, shortcut, own.sizes))
                        }
                        None => None,
                    };
                    Some(match shared {
                        Some((both, op, shortcut, sizes)) => {
                            (made[op], kept_until) = (true, op);
                            let mut packed = schedule.add_conv(conv, both);
                            packed.shortcut =
                                Some(schedule.add_shortcut(op, shortcut, sizes, &packed.tiles));
                            packed
                        }
                        None => schedule.add_conv(conv, tiles),
                    })
                }
                Op::Conv(_) | Op::Join(_) | Op::AveragePool(_) => None,
            };
            schedule.convs.push(packed);
        }
        Ok(schedule)
    }

    fn add_conv(&mut self, conv: &Conv, tiles: ConvTiles) -> Packed {
        let (weights, bias) = (self.weights, self.vectors);
        self.weights += packed_bytes(&tiles.sizes, tiles.kernel).next_multiple_of(ALIGNMENT);
        if conv.bias.is_some() {
            self.vectors += tiles.sizes.padded_outputs();
        }
        if matches!(conv.epilogue, Epilogue::Statistics(_)) {
            self.partials = self.partials.max(tiles.partials());
        }
        self.sums = self.sums.max(tiles.sums());
        Packed { tiles, weights, bias, shortcut: None }
    }

    fn add_shortcut(
        &mut self,
        op: usize,
        conv: &Conv,
        sizes: ConvSizes,
        both: &ConvTiles,
    ) -> PackedShortcut {
        let (weights, bias) = (self.weights, self.vectors);
        self.weights += packed_bytes(&sizes, both.kernel).next_multiple_of(ALIGNMENT);
        if conv.bias.is_some() {
            self.vectors += sizes.padded_outputs();
        }
        self.sums = self.sums.max(2 * both.sums());
        self.shortcut = self.shortcut.max(sizes.outputs_in_all() * value_bytes(Precision::F16));
        PackedShortcut { op, sizes, weights, bias }
    }

    fn add_coefficients(&mut self, network: &Network, tensor: TensorId, how: &Normalization) {
        if self.find(tensor, how).is_some() {
            return;
        }
        let channels = network.tensors[tensor.0].channels;
        let padded = channels.next_multiple_of(CHANNEL_BLOCK);
        let Normalization { statistics, affine, epsilon, .. } = *how;
        let (vectors, place) = (self.vectors, self.coefficient_values);
        self.coefficients.push(Coefficients {
            tensor,
            statistics,
            affine,
            epsilon,
            channels,
            padded,
            vectors,
            place,
        });
        match (statistics, affine) {
            // Vectors of 16 bytes are read from here.
            (Some(_), Some(_)) => self.vectors += 2 * padded,
            (Some(_), None) => {}
            (None, _) => self.vectors += 2 * padded,
        }
        if statistics.is_some() {
            self.coefficient_values += 2 * padded;
        }
    }

    /// The coefficients of a normalisation.
    pub(super) fn find(&self, tensor: TensorId, how: &Normalization) -> Option<&Coefficients> {
        self.coefficients.iter().find(|known| {
            known.tensor == tensor
                && known.statistics == how.statistics
                && known.affine == how.affine
                && known.epsilon == how.epsilon
        })
    }

    /// What the device holds for so many folds.
    pub(super) fn memory(&self, folds: usize) -> Vec<MemoryPart> {
        let weights = folds as u64 * (self.weights + 4 * self.vectors) as u64;
        let partials = self.partials * size_of::<super::parameters::Partial>();
        let scratch = 4 * (self.coefficient_values + self.sums) + partials + self.shortcut;
        vec![
            MemoryPart::on_device("activations of a tile", self.arena as u64),
            MemoryPart::on_device("weights", weights),
            MemoryPart::on_device("scratch memory of the kernels", scratch as u64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::networks;
    use crate::net::{Source, Tensor};

    /// The convolution of a layer of docs/kernels.md, cut for an H100.
    fn cut(name: &str, [inputs, outputs]: [usize; 2], shape: [usize; 3]) -> ConvTiles {
        let mut builder = networks::Builder::new(inputs, shape);
        let begins_stage = name.ends_with(".0.conv1") || name.ends_with(".0.conv3");
        let stride = match name.strip_prefix("conv_blocks_context.").and_then(|n| n.get(..1)) {
            Some("1" | "2" | "3" | "4") if begins_stage => [2, 2, 2],
            Some("5") if begins_stage => [1, 1, 2],
            _ => [1; 3],
        };
        let kernel =
            if name.ends_with("conv1") || name.ends_with("conv2") { [3; 3] } else { [1; 3] };
        let sources = match (inputs, begins_stage && name.starts_with("conv_blocks_localization")) {
            (1, _) => vec![Source::plain(TensorId(0))],
            (_, concatenates) => {
                let count = 1 + usize::from(concatenates);
                let shape = std::array::from_fn(|axis| shape[axis] * stride[axis]);
                let tensor = Tensor { channels: inputs / count, shape };
                builder.network.tensors.extend(vec![tensor; count]);
                (1..=count).map(|id| Source::plain(TensorId(id))).collect()
            }
        };
        let mut tiles = |kernel| {
            builder.conv(sources.clone(), outputs, kernel, stride, false, Epilogue::Plain);
            let Some(Op::Conv(conv)) = builder.network.ops.last() else { unreachable!() };
            ConvTiles::new(&builder.network, conv, Precision::F16, 132).unwrap()
        };
        let own = tiles(kernel);
        let both = match kernel == [3; 3] && stride != [1; 3] {
            true => together(&own, &tiles([1; 3]), Shortcuts::Expected, 132),
            false => None,
        };
        both.unwrap_or(own)
    }

    #[test]
    fn layers_are_cut_as_the_document_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kernels.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut count = 0;
        for line in text.lines().filter(|line| line.contains(" | `conv_") && line.contains(" → "))
        {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, name, channels, voxels, kernel, tile, splits, blocks, shared, ..] = cells[..]
            else {
                panic!("{line}")
            };
            let number = |text: &str| text.parse::<usize>().unwrap();
            let numbers = |text: &str| {
                text.split([' ', '×', '→', '/'])
                    .filter(|n| !n.is_empty())
                    .map(number)
                    .collect::<Vec<_>>()
            };
            let cut = cut(
                name,
                numbers(channels).try_into().unwrap(),
                numbers(voxels).try_into().unwrap(),
            );
            let mut expected = vec![cut.tile.planes, cut.tile.rows, 8];
            expected.extend((cut.tile.plane_groups > 1).then_some(cut.tile.plane_groups));
            assert_eq!(kernel, format!("`{}`", cut.kernel.name()), "{line}");
            assert_eq!(numbers(tile), expected, "{line}");
            assert_eq!(number(splits), cut.splits, "{line}");
            assert_eq!(number(blocks), cut.launch.grid.iter().product::<u32>() as usize, "{line}");
            let kib = f64::from(cut.launch.shared_bytes) / 1024.0;
            assert!((number(shared) as f64 - kib).abs() <= 0.5, "{line}: {kib}");
            count += 1;
        }
        assert!(count > 100, "{count} layers");
    }

    #[test]
    fn shortcuts_are_made_as_asked_for() {
        for plan in &networks::residual_u_nets() {
            let made = |how| {
                let schedule = Schedule::with(plan, Precision::F16, how, 132).unwrap();
                schedule.convs.iter().flatten().filter(|conv| conv.shortcut.is_some()).count()
            };
            let candidates = plan.network.ops.iter().enumerate().filter(|(at, op)| match op {
                Op::Conv(conv) => shortcut_of(&plan.network, *at, conv).is_some(),
                _ => false,
            });
            let candidates = candidates.count();
            assert_eq!([made(Shortcuts::Together), made(Shortcuts::Apart)], [candidates, 0]);
            assert!(made(Shortcuts::Expected) <= candidates);
        }
    }
}
