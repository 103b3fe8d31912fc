//! nnU-Net v2: `plans.json`, `dataset.json` and checkpoints. Where the plans of its versions
//! differ, both forms are read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::network::Hints;
use crate::base::{Error, Result};
use crate::model::{Axes, Normalization, OrientationName, Output, Postprocessing, Resampling};
use crate::volume::{Interpolation, SeparateAxis};

#[derive(Deserialize)]
pub(super) struct Plans {
    #[serde(default)]
    pub(super) dataset_name: String,
    image_reader_writer: Option<String>,
    transpose_forward: Option<[usize; 3]>,
    configurations: Map<String, Value>,
    #[serde(alias = "foreground_intensity_properties_by_modality")]
    foreground_intensity_properties_per_channel: Option<BTreeMap<String, Intensities>>,
}

#[derive(Deserialize)]
struct Intensities {
    mean: f64,
    std: f64,
    percentile_00_5: f64,
    percentile_99_5: f64,
}

#[derive(Deserialize)]
pub(super) struct Configuration {
    preprocessor_name: Option<String>,
    pub(super) patch_size: Vec<usize>,
    spacing: Vec<f64>,
    normalization_schemes: Vec<String>,
    #[serde(default)]
    use_mask_for_norm: Vec<bool>,
    resampling_fn_data: Option<String>,
    resampling_fn_data_kwargs: Option<Map<String, Value>>,
    resampling_fn_probabilities: Option<String>,
    resampling_fn_probabilities_kwargs: Option<Map<String, Value>>,
    pub(super) previous_stage: Option<String>,
    architecture: Option<ArchitecturePlan>,
    #[serde(rename = "UNet_class_name")]
    unet_class_name: Option<String>,
    #[serde(alias = "strides")]
    pool_op_kernel_sizes: Option<Vec<Vec<usize>>>,
}

#[derive(Deserialize)]
struct ArchitecturePlan {
    network_class_name: String,
    arch_kwargs: Map<String, Value>,
}

#[derive(Deserialize)]
pub(super) struct Dataset {
    #[serde(default)]
    name: Option<String>,
    pub(super) labels: Map<String, Value>,
    regions_class_order: Option<Vec<u32>>,
}

/// What the rows of the head mean, and the names of their values.
pub(super) struct Labels {
    pub(super) output: Output,
    pub(super) names: Vec<(u32, String)>,
}

/// Parses a document; `origin` names it in messages.
pub(super) fn parse<T: serde::de::DeserializeOwned>(origin: &str, document: Value) -> Result<T> {
    serde_json::from_value(document)
        .map_err(|error| Error::format(origin, format!("is not as nnU-Net writes it: {error}")))
}

impl Plans {
    /// A configuration with what it inherits.
    pub(super) fn configuration(&self, origin: &str, name: &str) -> Result<Configuration> {
        let mut merged = Map::new();
        let mut next = Some(name.to_owned());
        let mut seen = Vec::new();
        while let Some(name) = next.take() {
            if seen.contains(&name) {
                return Err(Error::format(
                    origin,
                    format!("configuration {name} inherits from itself"),
                ));
            }
            let Some(Value::Object(own)) = self.configurations.get(&name) else {
                let known: Vec<&str> = self.configurations.keys().map(String::as_str).collect();
                return Err(Error::format(
                    origin,
                    format!("has no configuration {name}; it has {}", known.join(", ")),
                ));
            };
            for (key, value) in own {
                merged.entry(key.clone()).or_insert_with(|| value.clone());
            }
            next = own.get("inherits_from").and_then(Value::as_str).map(str::to_owned);
            seen.push(name);
        }
        parse(&format!("{origin}, configuration {name}"), merged.into())
    }

    pub(super) fn axes(&self, origin: &str) -> Result<Axes> {
        let orientation = match self.image_reader_writer.as_deref() {
            None | Some("SimpleITKIO" | "NibabelIO") => OrientationName::Stored,
            Some("SimpleITKIOWithReorient" | "NibabelIOWithReorient") => OrientationName::Ras,
            Some(other) => return Err(unsupported(origin, "image reader", other)),
        };
        Ok(Axes { orientation, transpose: self.transpose_forward.unwrap_or([0, 1, 2]) })
    }

    pub(super) fn normalization(
        &self,
        origin: &str,
        of: &Configuration,
    ) -> Result<Vec<Normalization>> {
        let scheme = |(channel, scheme): (usize, &String)| {
            let masked = of.use_mask_for_norm.get(channel).copied().unwrap_or(false);
            Ok(match scheme.as_str() {
                "CTNormalization" => {
                    let all = self.foreground_intensity_properties_per_channel.as_ref();
                    let numbers =
                        all.and_then(|all| all.get(&channel.to_string())).ok_or_else(|| {
                            Error::format(
                                origin,
                                format!("has no foreground intensities of channel {channel}"),
                            )
                        })?;
                    Normalization::Ct {
                        masked: false,
                        lower: numbers.percentile_00_5,
                        upper: numbers.percentile_99_5,
                        mean: numbers.mean,
                        deviation: numbers.std,
                    }
                }
                "ZScoreNormalization" => Normalization::Zscore { masked },
                "NoNormalization" => Normalization::None {},
                "RescaleTo01Normalization" => Normalization::RescaleTo01 {},
                other => return Err(unsupported(origin, "normalization scheme", other)),
            })
        };
        of.normalization_schemes.iter().enumerate().map(scheme).collect()
    }
}

impl Configuration {
    pub(super) fn patch(&self, origin: &str) -> Result<[usize; 3]> {
        match *self.patch_size.as_slice() {
            [rows, columns] => Ok([1, rows, columns]),
            [slices, rows, columns] => Ok([slices, rows, columns]),
            _ => Err(Error::format(
                origin,
                format!("patch_size is {:?}, expected 2 or 3 numbers", self.patch_size),
            )),
        }
    }

    /// Spacing in mm and how grids change.
    pub(super) fn grid(&self, origin: &str) -> Result<([Option<f64>; 3], Resampling)> {
        if let Some(name) =
            self.preprocessor_name.as_deref().filter(|name| *name != "DefaultPreprocessor")
        {
            return Err(unsupported(origin, "preprocessor", name));
        }
        let spacing = match *self.spacing.as_slice() {
            [rows, columns] => [None, Some(rows), Some(columns)],
            [slices, rows, columns] => [Some(slices), Some(rows), Some(columns)],
            _ => {
                return Err(Error::format(
                    origin,
                    format!("spacing is {:?}, expected 2 or 3 numbers", self.spacing),
                ));
            }
        };
        let image = interpolation(
            origin,
            self.resampling_fn_data.as_deref(),
            self.resampling_fn_data_kwargs.as_ref(),
            3,
        )?;
        let scores = interpolation(
            origin,
            self.resampling_fn_probabilities.as_deref(),
            self.resampling_fn_probabilities_kwargs.as_ref(),
            1,
        )?;
        match (image, scores) {
            (Some(image), Some(scores)) => Ok((spacing, Resampling { image, scores })),
            (None, None) => Ok(([None; 3], Resampling::default())),
            _ => Err(Error::Unsupported(format!(
                "{origin}: either the image or the scores are not resampled"
            ))),
        }
    }

    /// What the network's tensors don't say.
    pub(super) fn hints(&self, origin: &str) -> Result<Hints> {
        let none = Map::new();
        let arguments = self.architecture.as_ref().map_or(&none, |plan| &plan.arch_kwargs);
        let class = self.architecture.as_ref().map(|plan| plan.network_class_name.clone());
        let class = class.or_else(|| self.unet_class_name.clone()).unwrap_or_default();
        let strides: Vec<Vec<usize>> = match (arguments.get("strides"), &self.pool_op_kernel_sizes)
        {
            (Some(strides), _) => parse(&format!("{origin}, strides"), strides.clone())?,
            (None, Some(strides)) => strides.clone(),
            (None, None) => {
                return Err(Error::format(origin, format!("the plans of {class} have no strides")));
            }
        };
        let mut all = Vec::new();
        for stride in &strides {
            all.push(match *stride.as_slice() {
                [rows, columns] => [1, rows, columns],
                [slices, rows, columns] => [slices, rows, columns],
                _ => {
                    return Err(Error::format(
                        origin,
                        format!("has the stride {stride:?}, expected 2 or 3 numbers"),
                    ));
                }
            });
        }
        if all.first() != Some(&[1, 1, 1]) {
            return Err(Error::Unsupported(format!(
                "{origin}: the first stride is {:?}, expected ones",
                strides.first()
            )));
        }
        all.remove(0);
        let text = |key: &str| arguments.get(key).and_then(Value::as_str);
        let last = |text: &str| text.rsplit('.').next().unwrap_or(text).to_owned();
        let number = |group: &str, key: &str, default: f64| {
            let value = arguments.get(group).and_then(|kwargs| kwargs.get(key));
            value.and_then(Value::as_f64).unwrap_or(default)
        };
        let slope = match text("nonlin").map(last).as_deref() {
            None if self.architecture.is_none() => 0.01,
            None => 1.0,
            Some("LeakyReLU") => number("nonlin_kwargs", "negative_slope", 0.01),
            Some("ReLU") => 0.0,
            Some(other) => return Err(unsupported(origin, "activation", other)),
        };
        let normalized = match text("norm_op").map(last).as_deref() {
            None => self.architecture.is_none(),
            Some("InstanceNorm3d" | "InstanceNorm2d" | "BatchNorm3d" | "BatchNorm2d") => true,
            Some(other) => return Err(unsupported(origin, "normalisation", other)),
        };
        for key in ["nonlin_first", "squeeze_excitation"] {
            if arguments.get(key).is_some_and(|value| *value == Value::Bool(true)) {
                return Err(Error::Unsupported(format!(
                    "{origin}: networks with {key} are not supported"
                )));
            }
        }
        let epsilon = number("norm_op_kwargs", "eps", 1e-5);
        Ok(Hints { strides: all, slope, epsilon, normalized, class })
    }
}

/// `None` if nothing is resampled.
fn interpolation(
    origin: &str,
    function: Option<&str>,
    kwargs: Option<&Map<String, Value>>,
    order: u8,
) -> Result<Option<Interpolation>> {
    let none = Map::new();
    let kwargs = kwargs.unwrap_or(&none);
    let integer = |key: &str, default: u8| {
        kwargs.get(key).and_then(Value::as_u64).map_or(default, |value| value.min(255) as u8)
    };
    let separate_axis = match kwargs.get("force_separate_z") {
        None | Some(Value::Null) => SeparateAxis::Auto,
        Some(Value::Bool(true)) => SeparateAxis::Always,
        Some(Value::Bool(false)) => SeparateAxis::Never,
        Some(other) => return Err(unsupported(origin, "force_separate_z", &other.to_string())),
    };
    let order = match function.unwrap_or("resample_data_or_seg_to_shape") {
        "resample_data_or_seg_to_shape" => {
            if integer("order_z", 0) != 0 {
                return Err(unsupported(
                    origin,
                    "resampling order_z",
                    &integer("order_z", 0).to_string(),
                ));
            }
            integer("order", order)
        }
        "resample_torch_fornnunet" => {
            let threshold = kwargs.get("separate_z_anisotropy_threshold").and_then(Value::as_f64);
            if threshold.is_some_and(|threshold| threshold != 3.0) {
                return Err(unsupported(origin, "separate_z_anisotropy_threshold", "other than 3"));
            }
            1
        }
        "no_resampling_hack" | "no_resampling_data_or_seg_to_shape" => return Ok(None),
        other => return Err(unsupported(origin, "resampling function", other)),
    };
    Ok(Some(Interpolation { order, separate_axis }))
}

impl Dataset {
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn labels(&self, origin: &str) -> Result<Labels> {
        let wrong = |name: &str, value: &Value| {
            Error::format(
                origin,
                format!("label {name:?} is {value}, expected a number or a list of some"),
            )
        };
        let mut values = Vec::new();
        let mut has_regions = false;
        for (name, value) in self.labels.iter().filter(|(name, _)| *name != "ignore") {
            let value = match value {
                Value::Number(_) => value.as_u64(),
                Value::Array(list) if list.len() == 1 => list[0].as_u64(),
                Value::Array(_) => {
                    has_regions = true;
                    Some(1)
                }
                _ => None,
            }
            .filter(|value| *value <= 65_535)
            .ok_or_else(|| wrong(name, value))?;
            values.push((value as u32, name.clone()));
        }
        if !has_regions {
            values.sort_by_key(|(value, _)| *value);
            let output = Output::Classes(values.iter().map(|(value, _)| *value).collect());
            return Ok(Labels { output, names: values });
        }
        // The heads' rows are the regions in the order of the document.
        let order = self
            .regions_class_order
            .as_ref()
            .ok_or_else(|| Error::format(origin, "has regions but no regions_class_order"))?;
        let regions: Vec<&String> = self
            .labels
            .iter()
            .filter(|(name, value)| !is_background(value) && *name != "ignore")
            .map(|(name, _)| name)
            .collect();
        if regions.len() != order.len() {
            return Err(Error::format(
                origin,
                format!(
                    "has {} regions and {} entries in regions_class_order",
                    regions.len(),
                    order.len()
                ),
            ));
        }
        let mut names: Vec<(u32, String)> =
            order.iter().copied().zip(regions.into_iter().cloned()).collect();
        names.push((0, "background".into()));
        names.sort_by_key(|(value, _)| *value);
        Ok(Labels { output: Output::Regions(order.clone()), names })
    }
}

fn is_background(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.iter().all(|value| value.as_u64() == Some(0)),
        other => other.as_u64() == Some(0),
    }
}

#[derive(Deserialize)]
struct PostprocessingPlan {
    postprocessing_fns: Vec<String>,
    postprocessing_kwargs: Vec<Value>,
}

/// `postprocessing.json`; a component's voxels touch by faces, edges or corners.
pub(super) fn postprocessing(origin: &str, document: Value) -> Result<Vec<Postprocessing>> {
    let plan: PostprocessingPlan = parse(origin, document)?;
    let mut steps = Vec::new();
    for (function, kwargs) in plan.postprocessing_fns.iter().zip(&plan.postprocessing_kwargs) {
        if function != "remove_all_but_largest_component_from_segmentation" {
            return Err(unsupported(origin, "postprocessing", function));
        }
        let mut labels = Vec::new();
        flatten(kwargs.get("labels_or_regions").unwrap_or(&Value::Null), &mut labels);
        steps.push(Postprocessing::LargestComponent {
            labels,
            connectivity: 26,
            minimum_mm3: None,
        });
    }
    Ok(steps)
}

/// The numbers of nested lists, each once, ascending.
pub(super) fn flatten(value: &Value, labels: &mut Vec<u32>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| flatten(value, labels)),
        other => labels.extend(other.as_u64().and_then(|value| u32::try_from(value).ok())),
    }
    labels.sort_unstable();
    labels.dedup();
}

pub(super) fn unsupported(origin: &str, what: &str, name: &str) -> Error {
    Error::Unsupported(format!("{origin}: {what} {name} is not supported"))
}
