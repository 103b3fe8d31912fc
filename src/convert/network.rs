//! A checkpoint's tensors: which family they are of, and what of them goes into a package.

use std::collections::BTreeMap;

use super::weights::{State, Stored};
use crate::base::{Error, Result};
use crate::model::{Architecture, Family, NormalizationLayer};

/// Tensors of a network: the largest have some thousand.
const MOST_TENSORS: usize = 100_000;
/// Values of all biases that are made: the largest networks have some ten thousand channels.
const MOST_BIASES: usize = 1 << 24;

/// A tensor of a package.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

/// Where a tensor's values come from.
pub(super) enum Values {
    /// A checkpoint; each slice along the first axis times a factor if there are any.
    Stored(Stored, Option<Vec<f32>>),
    /// Here.
    Made(Vec<f32>),
}

/// What plans say of a network that its tensors don't.
pub(super) struct Hints {
    /// Of the steps between resolutions, with 3 axes.
    pub(super) strides: Vec<[usize; 3]>,
    pub(super) slope: f64,
    pub(super) epsilon: f64,
    /// Whether there is a normalisation after each convolution.
    pub(super) normalized: bool,
    /// What the plans call the network, for messages.
    pub(super) class: String,
}

/// The tensors under the names that packages have: each once, of three axes, sorted by name.
pub(super) fn tensors(origin: &str, state: State) -> Result<Vec<Tensor>> {
    if state.len() > MOST_TENSORS {
        let reason = format!("has {} tensors, expected up to {MOST_TENSORS}", state.len());
        return Err(Error::format(origin, reason));
    }
    let tensor = |(name, stored): (String, Stored)| {
        let mut shape = stored.shape.clone();
        if shape.len() == 4 {
            shape.insert(2, 1);
        }
        Tensor { name, shape, values: Values::Stored(stored, None) }
    };
    Ok(once(state).into_iter().map(tensor).collect())
}

/// nnU-Net v2's modules register their layers twice, and its decoder holds the encoder; exports
/// may have kept either name.
fn once(state: State) -> State {
    let mut first = State::new();
    let mut again = Vec::new();
    for (name, stored) in state {
        let plain = canonical(&name);
        if plain == name {
            first.insert(name, stored);
        } else {
            again.push((plain, stored));
        }
    }
    for (name, stored) in again {
        first.entry(name).or_insert(stored);
    }
    first
}

fn canonical(name: &str) -> String {
    let name =
        name.strip_prefix("decoder.").filter(|rest| rest.starts_with("encoder.")).unwrap_or(name);
    match name.split_once(".all_modules.") {
        None => name.to_owned(),
        Some((block, rest)) => {
            let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
            let layer = if index == "0" { "conv" } else { "norm" };
            format!("{block}.{layer}.{rest}")
        }
    }
}

/// Takes the batch normalisations out of sorted tensors, and counts the biases that this makes.
fn fold(origin: &str, tensors: &mut Vec<Tensor>, epsilon: f64, biases: &mut Biases) -> Result<()> {
    let mut named: BTreeMap<String, Tensor> =
        std::mem::take(tensors).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let norms: Vec<String> = named
        .keys()
        .filter_map(|key| key.strip_suffix(".running_mean"))
        .map(str::to_owned)
        .collect();
    for norm in norms {
        fold_one(origin, &norm, &mut named, epsilon, biases)?;
    }
    tensors.extend(named.into_values());
    Ok(())
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + shift` is a factor and an offset of each
/// channel, which the convolution before takes over.
fn fold_one(
    origin: &str,
    norm: &str,
    tensors: &mut BTreeMap<String, Tensor>,
    epsilon: f64,
    biases: &mut Biases,
) -> Result<()> {
    let wrong =
        |reason: &str| Error::format(origin, format!("batch normalisation {norm}: {reason}"));
    let (block, layer) = norm.rsplit_once('.').ok_or_else(|| wrong("belongs to no convolution"))?;
    let conv = match layer {
        "norm" | "instnorm" => format!("{block}.conv"),
        _ => return Err(wrong("belongs to no convolution")),
    };
    let weight =
        tensors.get(&format!("{conv}.weight")).ok_or_else(|| wrong("has no convolution"))?;
    if matches!(weight.values, Values::Stored(_, Some(_))) {
        return Err(wrong("follows another of the same convolution"));
    }
    let channels = weight.shape.first().copied().unwrap_or(0);
    biases.count(origin, channels)?;
    // Lengths first: a tensor of another length may be of any length.
    let mut take = |name: String, absent: f32| match tensors.remove(&name).map(|t| t.values) {
        Some(Values::Stored(stored, None)) if stored.length() == channels => stored.values(),
        None => Ok(vec![absent; channels]),
        Some(_) => Err(wrong(&format!("{name} is not of the convolution's {channels} channels"))),
    };
    let mean = take(format!("{norm}.running_mean"), 0.0)?;
    let variance = take(format!("{norm}.running_var"), f32::NAN)?;
    let scale = take(format!("{norm}.weight"), 1.0)?;
    let shift = take(format!("{norm}.bias"), 0.0)?;
    let name = format!("{conv}.bias");
    let old = take(name.clone(), 0.0)?;
    let mut factors = Vec::with_capacity(channels);
    let mut bias = Vec::with_capacity(channels);
    for channel in 0..channels {
        let deviation = (f64::from(variance[channel]) + epsilon).sqrt();
        let factor = f64::from(scale[channel]) / deviation;
        let offset = (f64::from(old[channel]) - f64::from(mean[channel])) * factor;
        let (factor, offset) = (factor as f32, (offset + f64::from(shift[channel])) as f32);
        if !factor.is_finite() || !offset.is_finite() {
            return Err(wrong(&format!(
                "channel {channel} has the variance {}, which makes the factor {factor} and the \
                 offset {offset}, expected finite ones",
                variance[channel]
            )));
        }
        factors.push(factor);
        bias.push(offset);
    }
    let weight = tensors.get_mut(&format!("{conv}.weight")).map(|weight| &mut weight.values);
    if let Some(Values::Stored(_, kept)) = weight {
        *kept = Some(factors);
    }
    let tensor = Tensor { name: name.clone(), shape: vec![channels], values: Values::Made(bias) };
    tensors.insert(name, tensor);
    Ok(())
}

/// Values of the biases that are made. Tensors may share what they are stored in, so that a small
/// file can ask for many.
struct Biases(usize);

impl Biases {
    fn count(&mut self, origin: &str, channels: usize) -> Result<()> {
        let left = self.0.checked_sub(channels);
        self.0 = left.ok_or_else(|| {
            Error::format(origin, format!("needs more than {MOST_BIASES} values of biases"))
        })?;
        Ok(())
    }
}

/// The network that the tensors are of. Convolutions take over the batch normalisations after
/// them, and biases of zero are added where a network without normalisation has none.
pub(super) fn architecture(
    origin: &str,
    tensors: &mut Vec<Tensor>,
    hints: &Hints,
) -> Result<Architecture> {
    let mut biases = Biases(MOST_BIASES);
    fold(origin, tensors, hints.epsilon, &mut biases)?;
    let names = Names { origin, tensors, hints };
    let family = names.family()?;
    let mut strides = hints.strides.clone();
    if family == Family::Stunet {
        // It has its own number of resolutions; strides that the plans lack are ones.
        let stages = names.count(|s| format!("conv_blocks_context.{s}.0.conv1.weight"));
        strides.resize(stages.saturating_sub(1), [1; 3]);
    }
    let stages = strides.len() + 1;
    let levels = || 0..stages;
    let steps = stages - 1;
    // The first convolution of each resolution, and how many blocks there are.
    let (context, localization) = ("conv_blocks_context", "conv_blocks_localization");
    let (first, blocks, up): (Vec<String>, Vec<usize>, Vec<usize>) = match family {
        Family::Stunet => (
            levels().map(|s| format!("{context}.{s}.0.conv1.weight")).collect(),
            levels().map(|s| names.count(|b| format!("{context}.{s}.{b}.conv1.weight"))).collect(),
            (0..steps)
                .map(|u| names.count(|b| format!("{localization}.{u}.{b}.conv1.weight")))
                .collect(),
        ),
        Family::GenericUnet => {
            let two =
                |stack: String| 1 + names.count(|b| format!("{stack}.0.blocks.{b}.conv.weight"));
            let deepest = format!("{context}.{steps}");
            let mut first: Vec<_> =
                (0..steps).map(|s| format!("{context}.{s}.blocks.0.conv.weight")).collect();
            first.push(format!("{deepest}.0.blocks.0.conv.weight"));
            let mut blocks: Vec<_> = (0..steps)
                .map(|s| names.count(|b| format!("{context}.{s}.blocks.{b}.conv.weight")))
                .collect();
            blocks.push(two(deepest));
            (first, blocks, (0..steps).map(|u| two(format!("{localization}.{u}"))).collect())
        }
        Family::PlainUnet => (
            levels().map(|s| format!("encoder.stages.{s}.0.convs.0.conv.weight")).collect(),
            levels()
                .map(|s| names.count(|b| format!("encoder.stages.{s}.0.convs.{b}.conv.weight")))
                .collect(),
            names.decoder(steps),
        ),
        Family::ResidualEncoderUnet => (
            levels().map(|s| format!("encoder.stages.{s}.blocks.0.conv1.conv.weight")).collect(),
            levels()
                .map(|s| {
                    names.count(|b| format!("encoder.stages.{s}.blocks.{b}.conv1.conv.weight"))
                })
                .collect(),
            names.decoder(steps),
        ),
    };
    let first: Vec<&[usize]> = first.iter().map(|name| names.conv(name)).collect::<Result<_>>()?;
    let stem = "encoder.stem.convs.0.conv.weight";
    let stem = names.shape(stem).map(|_| names.conv(stem)).transpose()?;
    let (heads, transposed) = match family {
        Family::PlainUnet | Family::ResidualEncoderUnet => {
            ("decoder.seg_layers", "decoder.transpconvs")
        }
        Family::Stunet | Family::GenericUnet => ("seg_outputs", "tu"),
    };
    let head = format!("{heads}.{}", steps.saturating_sub(1));
    let classes = names.conv(&format!("{head}.weight"))?[0];
    let norm = tensors.iter().any(|tensor| {
        let mut parts = tensor.name.rsplit('.').skip(1);
        parts.next().is_some_and(|layer| layer.trim_end_matches(char::is_numeric).ends_with("norm"))
    });
    let folded = tensors.iter().any(|tensor| matches!(tensor.values, Values::Made(_)));
    let normalization = match (norm, folded || !hints.normalized) {
        (true, false) => NormalizationLayer::Instance,
        (false, false) => NormalizationLayer::InstanceWithoutAffine,
        (false, true) => NormalizationLayer::None,
        (true, true) => {
            return Err(Error::Unsupported(format!(
                "{origin}: some convolutions have a batch normalisation, or none by the plans, and \
                 others an instance normalisation"
            )));
        }
    };
    let has = |name: String| names.shape(&name).is_some();
    let architecture = Architecture {
        family,
        input_channels: stem.unwrap_or(first[0])[1],
        classes,
        channels: first.iter().map(|shape| shape[0]).collect(),
        decoder_blocks: (up.iter().ne(blocks[..steps].iter().rev())).then_some(up),
        blocks,
        strides,
        kernels: first.iter().map(|shape| [shape[2], shape[3], shape[4]]).collect(),
        stem_channels: stem.map(|shape| shape[0]).filter(|channels| *channels != first[0][0]),
        normalization,
        epsilon: hints.epsilon,
        slope: hints.slope,
        transposed_bias: family == Family::Stunet || has(format!("{transposed}.0.bias")),
        head_bias: has(format!("{head}.bias")),
    };
    if normalization == NormalizationLayer::None {
        let missing: Vec<(String, usize)> = tensors
            .iter()
            .filter_map(|tensor| {
                Some((tensor.name.strip_suffix(".conv.weight")?, *tensor.shape.first()?))
            })
            .map(|(block, channels)| (format!("{block}.conv.bias"), channels))
            .filter(|(name, _)| !has(name.clone()))
            .collect();
        for (name, channels) in missing {
            biases.count(origin, channels)?;
            let values = Values::Made(vec![0.0; channels]);
            tensors.push(Tensor { name, shape: vec![channels], values });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(architecture)
}

struct Names<'a> {
    origin: &'a str,
    tensors: &'a [Tensor],
    hints: &'a Hints,
}

impl<'a> Names<'a> {
    fn shape(&self, name: &str) -> Option<&'a [usize]> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        Some(self.tensors[found].shape.as_slice())
    }

    /// The shape of a convolution's weight.
    fn conv(&self, name: &str) -> Result<&'a [usize]> {
        let shape = self.shape(name).ok_or_else(|| {
            let stages = self.hints.strides.len() + 1;
            let reason = format!("tensor {name} is missing; the plans have {stages} resolutions");
            Error::format(self.origin, reason)
        })?;
        match shape.len() {
            5 => Ok(shape),
            _ => Err(Error::format(
                self.origin,
                format!("tensor {name} has shape {shape:?}, expected a convolution's"),
            )),
        }
    }

    /// How many tensors there are of a numbered name.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|number| self.shape(&name(*number)).is_some()).count()
    }

    fn decoder(&self, steps: usize) -> Vec<usize> {
        (0..steps)
            .map(|up| {
                self.count(|number| format!("decoder.stages.{up}.convs.{number}.conv.weight"))
            })
            .collect()
    }

    fn family(&self) -> Result<Family> {
        let known = [
            ("conv_blocks_context.0.0.conv1.weight", Family::Stunet),
            ("conv_blocks_context.0.blocks.0.conv.weight", Family::GenericUnet),
            ("encoder.stages.0.0.convs.0.conv.weight", Family::PlainUnet),
            ("encoder.stages.0.blocks.0.conv1.conv.weight", Family::ResidualEncoderUnet),
        ];
        let found = known.iter().find(|(name, _)| self.shape(name).is_some());
        found.map(|(_, family)| *family).ok_or_else(|| {
            let first = self.tensors.first().map_or("none", |tensor| tensor.name.as_str());
            Error::Unsupported(format!(
                "{}: the network {} (its first tensor is {first}) is not supported; STU-Net, \
                 PlainConvUNet, ResidualEncoderUNet and Generic_UNet are",
                self.origin, self.hints.class
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::{Hints, MOST_BIASES, MOST_TENSORS, State, Stored, Tensor, Values};
    use crate::base::{Element, Result};

    /// Tensors that share the values of one file from its begin.
    fn state(values: &[f32], tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> State {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytemuck::cast_slice(values)).unwrap();
        let file = Arc::new(file);
        let stored = |(name, shape): (String, Vec<usize>)| {
            let mut strides = vec![1; shape.len()];
            for axis in (1..shape.len()).rev() {
                strides[axis - 1] = strides[axis] * shape[axis];
            }
            let (file, origin, element) = (file.clone(), "x.pth".into(), Element::F32);
            (name.clone(), Stored { file, origin, name, element, start: 0, shape, strides })
        };
        tensors.into_iter().map(stored).collect()
    }

    /// A network of one resolution, with these tensors too.
    fn network(
        values: &[f32],
        channels: usize,
        more: &[&str],
        epsilon: f64,
    ) -> Result<Vec<Tensor>> {
        let block = "encoder.stages.0.0.convs.0";
        let weights = [
            (format!("{block}.conv.weight"), vec![channels, 1, 1, 1, 1]),
            ("decoder.seg_layers.0.weight".to_owned(), vec![2, 1, 1, 1, 1]),
        ];
        let more = more.iter().map(|name| (format!("{block}.{name}"), vec![channels]));
        let state = state(values, weights.into_iter().chain(more));
        let class = String::new();
        let hints = Hints { strides: Vec::new(), slope: 0.0, epsilon, normalized: false, class };
        let mut tensors = super::tensors("x.pth", state)?;
        super::architecture("x.pth", &mut tensors, &hints)?;
        Ok(tensors)
    }

    const NORM: [&str; 2] = ["norm.running_mean", "norm.running_var"];

    #[test]
    fn tensors_and_biases_without_end_are_refused() {
        let names = (0..=MOST_TENSORS).map(|number| (number.to_string(), vec![1]));
        let error = super::tensors("x.pth", state(&[], names)).err().unwrap().to_string();
        assert!(error.contains("has 100001 tensors"), "{error}");

        for more in [&NORM[..], &[]] {
            let error = network(&[], MOST_BIASES + 1, more, 1e-5).err().unwrap().to_string();
            assert!(error.contains("values of biases"), "{error}");
        }
    }

    #[test]
    fn batch_normalisations_are_finite_and_each_convolution_s_only_one() {
        let error = network(&[-1.0], 1, &NORM, 1e-5).err().unwrap().to_string();
        assert!(error.contains("variance -1"), "{error}");
        let error = network(&[0.0], 1, &NORM, 0.0).err().unwrap().to_string();
        assert!(error.contains("factor inf"), "{error}");
        let twice = [&NORM[..], &["instnorm.running_mean", "instnorm.running_var"]].concat();
        let error = network(&[1.0], 1, &twice, 1e-5).err().unwrap().to_string();
        assert!(error.contains("another of the same"), "{error}");
    }

    #[test]
    fn batch_normalisations_have_the_plans_epsilon() {
        let tensors = network(&[1.0], 1, &NORM, 3.0).unwrap();
        let factors = tensors.iter().find_map(|tensor| match &tensor.values {
            Values::Stored(_, factors) => factors.clone(),
            Values::Made(_) => None,
        });
        assert_eq!(factors, Some(vec![0.5]));
    }
}
