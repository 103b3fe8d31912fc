//! The reference and every instruction set against PyTorch, operation by operation.
//! `tests/reference/make_ops.py` made the fixtures and describes them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;

use super::super::forward::Forward;
use super::super::path::Method;
use super::super::winograd::{Length, Tiling};
use super::compare;
use crate::device::Precision;
use crate::device::networks::{Builder, Parameters};
use crate::device::reference::{self, Dense};
use crate::net::{
    Affine, Epilogue, Normalization, Reading, Source, StatisticsId, Tensor, TensorId,
};

#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    tolerance: f64,
    tensors: BTreeMap<String, [usize; 4]>,
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
#[serde(tag = "operation", rename_all = "lowercase")]
enum Operation {
    Conv(ConvCase),
    Join(JoinCase),
}

#[derive(Deserialize)]
struct ConvCase {
    sources: Vec<SourceCase>,
    weight: String,
    bias: Option<String>,
    kernel: [usize; 3],
    stride: [usize; 3],
    statistics: bool,
    add_normalized: Option<EndCase>,
    output: String,
}

#[derive(Deserialize)]
struct JoinCase {
    main: String,
    normalization: NormalizationCase,
    shortcut: String,
    output: String,
}

#[derive(Deserialize)]
struct SourceCase {
    tensor: String,
    upsample: [usize; 3],
    normalization: Option<NormalizationCase>,
}

#[derive(Deserialize)]
struct EndCase {
    main: String,
    normalization: NormalizationCase,
}

#[derive(Deserialize)]
struct NormalizationCase {
    scale: String,
    shift: String,
    epsilon: f32,
    slope: f32,
}

/// The values of one case, by name.
struct Values(HashMap<String, Vec<f32>>);

impl Values {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values = |(name, view): (String, safetensors::tensor::TensorView)| {
            (name, bytemuck::pod_collect_to_vec(view.data()))
        };
        Self(file.tensors().into_iter().map(values).collect())
    }

    fn dense(&self, name: &str, [channels, shape @ ..]: [usize; 4]) -> Dense {
        let values = self.0[name].iter().map(|&value| value.into()).collect();
        Dense { channels, shape, values }
    }
}

/// A case as a network, and what its parts are called.
struct Built {
    builder: Builder,
    tensors: HashMap<String, TensorId>,
    statistics: HashMap<String, StatisticsId>,
    parameters: Vec<String>,
}

impl Built {
    fn new(case: &Case) -> Self {
        let [channels, shape @ ..] = case.tensors["input"];
        let mut built = Self {
            builder: Builder::new(channels, shape),
            tensors: HashMap::from([("input".into(), TensorId(0))]),
            statistics: HashMap::new(),
            parameters: Vec::new(),
        };
        for operation in &case.operations {
            let (name, id) = match operation {
                Operation::Conv(conv) => (&conv.output, built.conv(conv, case)),
                Operation::Join(join) => (&join.output, built.join(join)),
            };
            let [channels, shape @ ..] = case.tensors[name];
            assert_eq!(built.builder.network.tensors[id.0], Tensor { channels, shape });
            built.tensors.insert(name.clone(), id);
        }
        built
    }

    fn conv(&mut self, conv: &ConvCase, case: &Case) -> TensorId {
        let sources = conv.sources.iter().map(|source| self.source(source)).collect();
        let epilogue = if let Some(end) = &conv.add_normalized {
            let normalization = self.normalization(&end.main, &end.normalization);
            Epilogue::AddNormalized { main: self.tensors[&end.main], normalization }
        } else if conv.statistics {
            let id = StatisticsId(self.statistics.len());
            self.statistics.insert(conv.output.clone(), id);
            self.builder.network.statistics += 1;
            Epilogue::Statistics(id)
        } else {
            Epilogue::Plain
        };
        self.parameters.push(conv.weight.clone());
        self.parameters.extend(conv.bias.clone());
        let channels = case.tensors[&conv.output][0];
        let bias = conv.bias.is_some();
        self.builder.conv(sources, channels, conv.kernel, conv.stride, bias, epilogue)
    }

    fn join(&mut self, join: &JoinCase) -> TensorId {
        let normalization = self.normalization(&join.main, &join.normalization);
        let (main, shortcut) = (self.tensors[&join.main], self.tensors[&join.shortcut]);
        let shortcut = Reading { tensor: shortcut, normalization: None };
        self.builder.join(main, normalization, Some(shortcut))
    }

    fn source(&mut self, source: &SourceCase) -> Source {
        let tensor = self.tensors[&source.tensor];
        let normalization =
            source.normalization.as_ref().map(|how| self.normalization(&source.tensor, how));
        Source { tensor, upsample: source.upsample, normalization }
    }

    fn normalization(&mut self, tensor: &str, how: &NormalizationCase) -> Normalization {
        let statistics = Some(self.statistics[tensor]);
        let channels = self.builder.network.tensors[self.tensors[tensor].0].channels;
        let mut parameter = |name: &String| {
            self.parameters.push(name.clone());
            self.builder.parameter(&[channels])
        };
        let (scale, shift) = (parameter(&how.scale), parameter(&how.shift));
        let affine = Some(Affine { scale, shift });
        Normalization { statistics, affine, epsilon: how.epsilon, slope: how.slope }
    }
}

/// The largest relative error of a tensor, as a norm.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let mut differences = found.iter().zip(expected).map(|(a, b)| a - b);
    norm(&mut differences) / norm(&mut expected.iter().copied())
}

#[test]
fn every_operation_is_pytorch_s() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ops");
    let cases = std::fs::read_to_string(folder.join("ops.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        println!("{}", case.name);
        let values = Values::read(&folder.join(&case.file));
        let Built { builder, tensors, statistics, parameters } = Built::new(&case);
        let plan = builder.finish();
        let network = &plan.network;
        let mut weights: Vec<Vec<f32>> =
            parameters.iter().map(|name| values.0[name].clone()).collect();
        for (weight, parameter) in weights.iter().zip(&network.parameters) {
            assert_eq!(weight.len(), parameter.shape.iter().product::<usize>());
        }
        // The head does not take part.
        weights.push(vec![0.0; network.parameters[weights.len()].shape.iter().product()]);
        let weights = Parameters(weights);

        let mut expected = vec![Dense::default(); network.tensors.len()];
        for (name, id) in &tensors {
            expected[id.0] = values.dense(name, case.tensors[name]);
        }
        let found = reference::run(network, &weights.0, &values.0["input"]);
        for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = relative(&found.values, &expected.values);
            assert!(error < case.tolerance, "the reference's tensor {id}: {error:e}");
        }
        let statistics_match = |forward: &Forward| {
            for (name, id) in &statistics {
                let mean = &values.0[&format!("{name}.mean")];
                let variance = &values.0[&format!("{name}.variance")];
                for (channel, (&mean, &variance)) in mean.iter().zip(variance).enumerate() {
                    let found = forward.statistics(*id)[channel];
                    let (mean, variance) = (f64::from(mean), f64::from(variance));
                    let scale = mean.abs().max(variance.sqrt());
                    assert!((found.mean - mean).abs() < 1e-6 * scale, "mean of {name}");
                    let error = (found.variance() - variance).abs();
                    assert!(error < 1e-5 * variance, "variance of {name}: {error:e}");
                }
            }
        };
        let four = Tiling { lengths: [Length::Four; 2], stored: true, streamed: true };
        for method in [Method::Fastest, Method::Direct, Method::Winograd(four)] {
            let input = &values.0["input"];
            compare(
                method,
                Precision::F32,
                &plan,
                &weights,
                input,
                &expected,
                case.tolerance,
                statistics_match,
            );
        }
    }
}
