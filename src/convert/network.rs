//! A checkpoint's tensors: which family they are of, and what of them goes into a package.

use super::weights::{State, Stored};
use crate::base::{Error, Result};
use crate::model::{Architecture, Family, NormalizationLayer};

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

/// The tensors under the names that packages have: each once, of three axes, without batch
/// normalisations.
pub(super) fn tensors(origin: &str, state: State) -> Result<Vec<Tensor>> {
    let mut state = once(state);
    let mut made = Vec::new();
    let norms: Vec<String> = state
        .keys()
        .filter_map(|key| key.strip_suffix(".running_mean"))
        .map(str::to_owned)
        .collect();
    for norm in norms {
        let (conv, folded) = fold(origin, &norm, &mut state)?;
        made.push((conv, folded));
    }
    let mut tensors: Vec<Tensor> = Vec::new();
    for (name, stored) in state {
        let mut shape = stored.shape.clone();
        if shape.len() == 4 {
            shape.insert(2, 1);
        }
        let layer = name.strip_suffix(".weight");
        let folded = made.iter().find(|(conv, _)| Some(conv.as_str()) == layer);
        let factors = folded.map(|(_, folded)| folded.factors.clone());
        tensors.push(Tensor { name, shape, values: Values::Stored(stored, factors) });
    }
    for (conv, folded) in made {
        let (name, shape) = (format!("{conv}.bias"), vec![folded.bias.len()]);
        tensors.push(Tensor { name, shape, values: Values::Made(folded.bias) });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
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

struct Folded {
    /// Of each output channel.
    factors: Vec<f32>,
    bias: Vec<f32>,
}

/// Takes a batch normalisation out: `(x - mean) / sqrt(variance + epsilon) * scale + shift` is a
/// factor and an offset of each channel, which the convolution before takes over.
fn fold(origin: &str, norm: &str, state: &mut State) -> Result<(String, Folded)> {
    let wrong =
        |reason: &str| Error::format(origin, format!("batch normalisation {norm}: {reason}"));
    let (block, layer) = norm.rsplit_once('.').ok_or_else(|| wrong("belongs to no convolution"))?;
    let conv = match layer {
        "norm" | "instnorm" => format!("{block}.conv"),
        _ => return Err(wrong("belongs to no convolution")),
    };
    let mut take =
        |name: &str| state.remove(&format!("{norm}.{name}")).map(|t| t.values()).transpose();
    let mean = take("running_mean")?.unwrap_or_default();
    let variance = take("running_var")?.unwrap_or_default();
    let scale = take("weight")?.unwrap_or_else(|| vec![1.0; mean.len()]);
    let shift = take("bias")?.unwrap_or_else(|| vec![0.0; mean.len()]);
    let old = state.remove(&format!("{conv}.bias")).map(|t| t.values()).transpose()?;
    let old = old.unwrap_or_else(|| vec![0.0; mean.len()]);
    let weight = state.get(&format!("{conv}.weight")).ok_or_else(|| wrong("has no convolution"))?;
    let channels = weight.shape.first().copied().unwrap_or(0);
    if [&mean, &variance, &scale, &shift, &old].iter().any(|values| values.len() != channels) {
        return Err(wrong(&format!("its numbers are not {channels}, the convolution's channels")));
    }
    let mut folded = Folded { factors: Vec::new(), bias: Vec::new() };
    for channel in 0..channels {
        // PyTorch's epsilon of batch normalisations.
        let deviation = (f64::from(variance[channel]) + 1e-5).sqrt();
        let factor = f64::from(scale[channel]) / deviation;
        let bias = (f64::from(old[channel]) - f64::from(mean[channel])) * factor;
        folded.factors.push(factor as f32);
        folded.bias.push((bias + f64::from(shift[channel])) as f32);
    }
    Ok((conv, folded))
}

/// The network that the tensors are of. Biases of zero are added where a network without
/// normalisation has none.
pub(super) fn architecture(
    origin: &str,
    tensors: &mut Vec<Tensor>,
    hints: &Hints,
) -> Result<Architecture> {
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
    let has = |name: String| tensors.iter().any(|tensor| tensor.name == name);
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
