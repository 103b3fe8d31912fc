//! The operations in plain loops and double precision, for the tests to compare every path with.

use crate::net::{
    AveragePool, Conv, Epilogue, Join, Network, Normalization, Op, ParameterId, Source, TensorId,
};

/// A tensor, `[channels][s0][s1][s2]`.
#[derive(Clone, Default)]
pub(super) struct Dense {
    pub(super) channels: usize,
    pub(super) shape: [usize; 3],
    pub(super) values: Vec<f64>,
}

impl Dense {
    fn zeros(network: &Network, id: TensorId) -> Self {
        let tensor = &network.tensors[id.0];
        let values = vec![0.0; tensor.channels * tensor.shape.iter().product::<usize>()];
        Self { channels: tensor.channels, shape: tensor.shape, values }
    }

    pub(super) fn index(&self, channel: usize, [a, b, c]: [usize; 3]) -> usize {
        ((channel * self.shape[0] + a) * self.shape[1] + b) * self.shape[2] + c
    }

    fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    fn places(&self) -> impl Iterator<Item = [usize; 3]> + use<> {
        let [s0, s1, s2] = self.shape;
        (0..s0 * s1 * s2).map(move |v| [v / s2 / s1, v / s2 % s1, v % s2])
    }
}

fn leaky(value: f64, slope: f32) -> f64 {
    if value < 0.0 { value * f64::from(slope) } else { value }
}

/// What is pending without the activation.
fn normalized(tensor: &Dense, how: &Normalization, parameters: &[Vec<f32>]) -> Dense {
    let mut result = tensor.clone();
    for (channel, values) in result.values.chunks_exact_mut(tensor.voxels()).enumerate() {
        let count = values.len() as f64;
        let (mut mean, mut deviation) = (0.0, 1.0);
        if how.statistics.is_some() {
            mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            deviation = (variance + f64::from(how.epsilon)).sqrt();
        }
        let of = |id: ParameterId| f64::from(parameters[id.0][channel]);
        let (scale, shift) = how.affine.map_or((1.0, 0.0), |a| (of(a.scale), of(a.shift)));
        for value in values {
            *value = (*value - mean) / deviation * scale + shift;
        }
    }
    result
}

fn activated(tensor: &Dense, how: Option<&Normalization>, parameters: &[Vec<f32>]) -> Dense {
    let Some(how) = how else { return tensor.clone() };
    let mut result = normalized(tensor, how, parameters);
    result.values.iter_mut().for_each(|value| *value = leaky(*value, how.slope));
    result
}

/// A source as its convolution sees it.
fn read(source: &Source, tensors: &[Dense], parameters: &[Vec<f32>]) -> Dense {
    let stored = activated(&tensors[source.tensor.0], source.normalization.as_ref(), parameters);
    let shape: [usize; 3] = std::array::from_fn(|axis| stored.shape[axis] * source.upsample[axis]);
    let voxels: usize = shape.iter().product();
    let mut result =
        Dense { channels: stored.channels, shape, values: vec![0.0; voxels * stored.channels] };
    for channel in 0..stored.channels {
        for at in result.places() {
            let from = std::array::from_fn(|axis| at[axis] / source.upsample[axis]);
            let index = result.index(channel, at);
            result.values[index] = stored.values[stored.index(channel, from)];
        }
    }
    result
}

fn conv(network: &Network, conv: &Conv, tensors: &[Dense], parameters: &[Vec<f32>]) -> Dense {
    let sources: Vec<Dense> =
        conv.sources.iter().map(|source| read(source, tensors, parameters)).collect();
    let mut output = Dense::zeros(network, conv.output);
    let weight = &parameters[conv.weight.0];
    let inputs: usize = sources.iter().map(|source| source.channels).sum();
    let [k0, k1, k2] = conv.kernel;
    if let Some(expand) = conv.expand {
        return transposed(conv, expand, &sources[0], output, parameters);
    }
    let bias = conv.bias.map(|bias| &parameters[bias.0]);
    for channel in 0..output.channels {
        for at in output.places() {
            let mut sum = bias.map_or(0.0, |bias| f64::from(bias[channel]));
            let mut input = 0;
            for source in &sources {
                for source_channel in 0..source.channels {
                    for tap in 0..k0 * k1 * k2 {
                        let taps = [tap / k2 / k1, tap / k2 % k1, tap % k2];
                        let place: [Option<usize>; 3] = std::array::from_fn(|axis| {
                            (at[axis] * conv.stride[axis] + taps[axis])
                                .checked_sub((conv.kernel[axis] - 1) / 2)
                                .filter(|&index| index < source.shape[axis])
                        });
                        if let [Some(a), Some(b), Some(c)] = place {
                            let value = source.values[source.index(source_channel, [a, b, c])];
                            let index = (channel * inputs + input) * k0 * k1 * k2 + tap;
                            sum += value * f64::from(weight[index]);
                        }
                    }
                    input += 1;
                }
            }
            let index = output.index(channel, at);
            output.values[index] = sum;
        }
    }
    if let Epilogue::AddNormalized { main, normalization } = &conv.epilogue {
        let main = normalized(&tensors[main.0], normalization, parameters);
        for (value, main) in output.values.iter_mut().zip(main.values) {
            *value = leaky(*value + main, normalization.slope);
        }
    }
    output
}

fn transposed(
    conv: &Conv,
    [e0, e1, e2]: [usize; 3],
    source: &Dense,
    mut output: Dense,
    parameters: &[Vec<f32>],
) -> Dense {
    let weight = &parameters[conv.weight.0];
    let biases = conv.bias.map(|bias| &parameters[bias.0]);
    for channel in 0..output.channels {
        let bias = biases.map_or(0.0, |biases| f64::from(biases[channel]));
        for [a, b, c] in output.places() {
            let mut sum = bias;
            let tap = (a % e0 * e1 + b % e1) * e2 + c % e2;
            for input in 0..source.channels {
                let value = source.values[source.index(input, [a / e0, b / e1, c / e2])];
                let index = (input * output.channels + channel) * e0 * e1 * e2 + tap;
                sum += value * f64::from(weight[index]);
            }
            let index = output.index(channel, [a, b, c]);
            output.values[index] = sum;
        }
    }
    output
}

fn join(join: &Join, tensors: &[Dense], parameters: &[Vec<f32>]) -> Dense {
    let mut output = normalized(&tensors[join.main.0], &join.normalization, parameters);
    if let Some(shortcut) = join.shortcut {
        let how = shortcut.normalization.as_ref();
        let added = activated(&tensors[shortcut.tensor.0], how, parameters);
        for (value, added) in output.values.iter_mut().zip(added.values) {
            *value += added;
        }
    }
    output.values.iter_mut().for_each(|value| *value = leaky(*value, join.normalization.slope));
    output
}

fn average(
    network: &Network,
    pool: &AveragePool,
    tensors: &[Dense],
    parameters: &[Vec<f32>],
) -> Dense {
    let how = pool.source.normalization.as_ref();
    let source = activated(&tensors[pool.source.tensor.0], how, parameters);
    let mut output = Dense::zeros(network, pool.output);
    let [s0, s1, s2] = pool.size;
    for channel in 0..output.channels {
        for [a, b, c] in output.places() {
            let mut sum = 0.0;
            for at in 0..s0 * s1 * s2 {
                let [i, j, k] = [at / s2 / s1, at / s2 % s1, at % s2];
                sum += source.values[source.index(channel, [a * s0 + i, b * s1 + j, c * s2 + k])];
            }
            let index = output.index(channel, [a, b, c]);
            output.values[index] = sum / (s0 * s1 * s2) as f64;
        }
    }
    output
}

/// Every tensor of the network, given its input and its parameters.
pub(super) fn run(network: &Network, parameters: &[Vec<f32>], input: &[f32]) -> Vec<Dense> {
    let mut tensors = vec![Dense::default(); network.tensors.len()];
    let mut patch = Dense::zeros(network, network.input);
    patch.values = input.iter().map(|&value| f64::from(value)).collect();
    tensors[network.input.0] = patch;
    for op in &network.ops {
        tensors[op.output().0] = match op {
            Op::Conv(op) => conv(network, op, &tensors, parameters),
            Op::Join(op) => join(op, &tensors, parameters),
            Op::AveragePool(op) => average(network, op, &tensors, parameters),
        };
    }
    tensors
}
