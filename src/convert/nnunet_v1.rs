//! nnU-Net v1: the plans in `*.model.pkl`, and the few things that only the trainer's name says.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::network::Hints;
use super::nnunet_v2::{flatten, parse, unsupported};
use crate::base::{Error, Result};
use crate::model::{Axes, Normalization, OrientationName, Postprocessing, Resampling};
use crate::volume::{Interpolation, SeparateAxis};

/// Parts of trainers' names whose networks or preprocessing are others.
const OTHER_TRAINERS: [&str; 12] = [
    "GeLU",
    "Mish",
    "FRN",
    "_GN",
    "NoNormalization",
    "convReLUIN",
    "convlReLUIN",
    "ResencUNet",
    "BraTSRegions",
    "Cascade",
    "ResidualUNet",
    "Transformer",
];

/// The document of a `.model.pkl`.
#[derive(Deserialize)]
pub(super) struct Document {
    init: Vec<Value>,
    pub(super) name: String,
    plans: Plans,
}

#[derive(Deserialize)]
struct Plans {
    num_classes: u32,
    normalization_schemes: BTreeMap<usize, String>,
    use_mask_for_norm: BTreeMap<usize, bool>,
    transpose_forward: Option<[usize; 3]>,
    plans_per_stage: BTreeMap<u64, Stage>,
    preprocessor_name: Option<String>,
    dataset_properties: Option<Properties>,
    segmentation_export_params: Option<ExportParameters>,
}

#[derive(Deserialize)]
struct Stage {
    patch_size: Vec<usize>,
    current_spacing: [f64; 3],
    pool_op_kernel_sizes: Option<Vec<Vec<usize>>>,
    num_pool_per_axis: Option<Vec<usize>>,
}

#[derive(Deserialize)]
struct Properties {
    intensityproperties: Option<BTreeMap<usize, Intensities>>,
}

#[derive(Deserialize)]
struct Intensities {
    mean: f64,
    sd: f64,
    percentile_00_5: f64,
    percentile_99_5: f64,
}

#[derive(Deserialize)]
struct ExportParameters {
    force_separate_z: Option<bool>,
    interpolation_order: Option<u8>,
    interpolation_order_z: Option<u8>,
}

impl Document {
    /// Refuses what only the trainer's name tells.
    pub(super) fn check(&self, origin: &str) -> Result<()> {
        match OTHER_TRAINERS.iter().find(|part| self.name.contains(*part)) {
            Some(_) => Err(unsupported(origin, "trainer", &self.name)),
            None => Ok(()),
        }
    }

    fn stage(&self, origin: &str) -> Result<&Stage> {
        let stages = &self.plans.plans_per_stage;
        let stage = match self.init.get(5).and_then(Value::as_u64) {
            Some(number) => stages.get(&number),
            None if stages.len() == 1 => stages.values().next(),
            None => None,
        };
        stage.ok_or_else(|| {
            let known: Vec<_> = stages.keys().collect();
            Error::format(
                origin,
                format!("says stage {:?}; its plans have {known:?}", self.init.get(5)),
            )
        })
    }

    pub(super) fn classes(&self) -> u32 {
        self.plans.num_classes.saturating_add(1)
    }

    pub(super) fn patch(&self, origin: &str) -> Result<[usize; 3]> {
        let patch = &self.stage(origin)?.patch_size;
        match *patch.as_slice() {
            [rows, columns] => Ok([1, rows, columns]),
            [slices, rows, columns] => Ok([slices, rows, columns]),
            _ => Err(Error::format(
                origin,
                format!("patch_size is {patch:?}, expected 2 or 3 numbers"),
            )),
        }
    }

    pub(super) fn mirror_axes(&self, patch: [usize; 3]) -> Vec<usize> {
        match self.name.to_lowercase().contains("nomirror") {
            true => Vec::new(),
            false => (0..3).filter(|&axis| patch[axis] > 1).collect(),
        }
    }

    pub(super) fn axes(&self) -> Axes {
        let transpose = self.plans.transpose_forward.unwrap_or([0, 1, 2]);
        Axes { orientation: OrientationName::Stored, transpose }
    }

    /// Spacing in mm and how grids change.
    pub(super) fn grid(&self, origin: &str) -> Result<([Option<f64>; 3], Resampling)> {
        let stage = self.stage(origin)?;
        let mut spacing = stage.current_spacing.map(Some);
        let mut resampling = Resampling::default();
        let two_d = stage.patch_size.len() == 2;
        match self.plans.preprocessor_name.as_deref().unwrap_or("GenericPreprocessor") {
            "GenericPreprocessor" if !two_d => {}
            "PreprocessorFor2D" | "GenericPreprocessor" => spacing[0] = None,
            "GenericPreprocessor_linearResampling" => resampling.image.order = 1,
            "Preprocessor3DBetterResampling" => {
                resampling.image.separate_axis = SeparateAxis::Never;
            }
            other => return Err(unsupported(origin, "preprocessor", other)),
        }
        if let Some(export) = &self.plans.segmentation_export_params {
            if export.interpolation_order_z.is_some_and(|order| order != 0) {
                return Err(unsupported(
                    origin,
                    "export with interpolation_order_z",
                    "other than 0",
                ));
            }
            resampling.scores = Interpolation {
                order: export.interpolation_order.unwrap_or(1),
                separate_axis: match export.force_separate_z {
                    None => SeparateAxis::Auto,
                    Some(true) => SeparateAxis::Always,
                    Some(false) => SeparateAxis::Never,
                },
            };
        }
        Ok((spacing, resampling))
    }

    pub(super) fn normalization(&self, origin: &str) -> Result<Vec<Normalization>> {
        let properties = self.plans.dataset_properties.as_ref();
        let numbers = properties.and_then(|all| all.intensityproperties.as_ref());
        let scheme = |(channel, scheme): (&usize, &String)| {
            let masked = self.plans.use_mask_for_norm.get(channel).copied().unwrap_or(false);
            let numbers = numbers.and_then(|all| all.get(channel)).ok_or_else(|| {
                Error::format(origin, format!("has no intensity properties of channel {channel}"))
            });
            Ok(match scheme.as_str() {
                "CT" => {
                    let numbers = numbers?;
                    Normalization::Ct {
                        masked,
                        lower: numbers.percentile_00_5,
                        upper: numbers.percentile_99_5,
                        mean: numbers.mean,
                        deviation: numbers.sd,
                    }
                }
                "CT2" => {
                    let numbers = numbers?;
                    let (lower, upper) = (numbers.percentile_00_5, numbers.percentile_99_5);
                    Normalization::Ct2 { masked, lower, upper }
                }
                "noNorm" => Normalization::None {},
                // nnU-Net treats every other name this way.
                _ => Normalization::Zscore { masked },
            })
        };
        self.plans.normalization_schemes.iter().map(scheme).collect()
    }

    /// What the network's tensors don't say.
    pub(super) fn hints(&self, origin: &str) -> Result<Hints> {
        let stage = self.stage(origin)?;
        let axes = stage.patch_size.len();
        let strides = match (&stage.pool_op_kernel_sizes, &stage.num_pool_per_axis) {
            (Some(strides), _) => strides.clone(),
            (None, Some(pools)) => {
                // An axis that is halved fewer times begins later.
                let most = pools.iter().copied().max().unwrap_or(0).min(16);
                let stride =
                    |step: usize, count: usize| if most - count.min(most) <= step { 2 } else { 1 };
                let strides = |step| pools.iter().map(|&count| stride(step, count)).collect();
                (0..most).map(strides).collect()
            }
            (None, None) => return Err(Error::format(origin, "has no pool_op_kernel_sizes")),
        };
        let mut all = Vec::new();
        for stride in strides {
            all.push(match (axes, stride.as_slice()) {
                (2, &[rows, columns]) => [1, rows, columns],
                (3, &[slices, rows, columns]) => [slices, rows, columns],
                _ => {
                    return Err(Error::format(
                        origin,
                        format!("has the stride {stride:?}, expected {axes} numbers"),
                    ));
                }
            });
        }
        let slope = match self.name.as_str() {
            name if name.contains("LReLU_slope_2en1") => 0.2,
            name if name.contains("_ReLU") => 0.0,
            _ => 0.01,
        };
        let class = format!("of trainer {}", self.name);
        Ok(Hints { strides: all, slope, epsilon: 1e-5, normalized: true, class })
    }
}

#[derive(Deserialize)]
struct PostprocessingPlan {
    for_which_classes: Option<Vec<Value>>,
    min_valid_object_sizes: Option<String>,
}

/// `postprocessing.json`; a component's voxels touch by faces.
pub(super) fn postprocessing(origin: &str, document: Value) -> Result<Vec<Postprocessing>> {
    let plan: PostprocessingPlan = parse(origin, document)?;
    let text = plan.min_valid_object_sizes.unwrap_or_default();
    let sizes = sizes(&text).map_err(|value| {
        Error::format(origin, format!("has the smallest size {value:?}, expected a number"))
    })?;
    let step = |classes: &Value| {
        let mut labels = Vec::new();
        flatten(classes, &mut labels);
        let minimum_mm3 = sizes.iter().find(|(of, _)| *of == labels).map(|(_, mm3)| *mm3);
        Postprocessing::LargestComponent { labels, connectivity: 6, minimum_mm3 }
    };
    Ok(plan.for_which_classes.unwrap_or_default().iter().map(step).collect())
}

/// A Python dictionary's text, `{(1, 2): 20.0, 3: np.float64(100.0)}`: labels and mm^3. An error
/// is the text of what should be a number.
fn sizes(text: &str) -> std::result::Result<Vec<(Vec<u32>, f64)>, String> {
    let mut sizes = Vec::new();
    let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}');
    while let Some((key, after)) = rest.split_once(':') {
        // Names such as `np.int64` are no numbers.
        let mut labels: Vec<u32> = key
            .split(|c: char| c.is_whitespace() || "(),".contains(c))
            .filter_map(|number| number.parse().ok())
            .collect();
        labels.sort_unstable();
        let (value, next) = after.split_once(',').unwrap_or((after, ""));
        let number = value.trim().trim_end_matches(')');
        let number = number.rsplit_once('(').map_or(number, |(_, number)| number);
        sizes.push((labels, number.parse().map_err(|_| value.trim().to_owned())?));
        rest = next;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn smallest_sizes_are_read_from_python_s_text() {
        let found = sizes("{(1, 2, 3): 1e9, 2: 100.0}").unwrap();
        assert_eq!(found, [(vec![1, 2, 3], 1e9), (vec![2], 100.0)]);
        let found = sizes("{(np.int64(1), 2): np.float64(20.0), np.int32(3): 5}").unwrap();
        assert_eq!(found, [(vec![1, 2], 20.0), (vec![3], 5.0)]);
        assert_eq!(sizes("None").unwrap(), []);
        assert_eq!(sizes("{1: many}").unwrap_err(), "many");
    }
}
