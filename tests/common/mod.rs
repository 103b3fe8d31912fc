//! Seeded model packages, put together in memory.
#![allow(dead_code)]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Seeded values in (-1, 1), the same on every machine.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A STU-Net with random weights, and its description.
pub struct SeededModel {
    pub channels: Vec<usize>,
    pub blocks: usize,
    pub strides: Vec<[usize; 3]>,
    pub inputs: usize,
    pub classes: usize,
    pub folds: usize,
    /// Added to the background's score.
    pub background: f32,
    /// The package's JSON document.
    pub document: Value,
}

impl SeededModel {
    /// One of STU-Net's widths: S has 16 channels at the first level, B 32.
    pub fn stunet(first_channels: usize, classes: usize) -> Self {
        let channels = [1, 2, 4, 8, 16, 16].map(|factor| factor * first_channels).to_vec();
        let strides = [[2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 2]].to_vec();
        Self::new(channels, strides, [128; 3], 1, classes)
    }

    /// Three levels that fit patches divisible by 4.
    pub fn small(patch: [usize; 3], classes: usize) -> Self {
        Self::new(vec![6, 10, 12], vec![[2, 2, 2], [2, 2, 2]], patch, 1, classes)
    }

    fn new(
        channels: Vec<usize>,
        strides: Vec<[usize; 3]>,
        patch: [usize; 3],
        inputs: usize,
        classes: usize,
    ) -> Self {
        let stages = channels.len();
        let labels: Vec<Value> = (0..classes)
            .map(|value| match value {
                0 => json!({ "value": 0, "name": "background" }),
                _ => json!({ "value": value, "name": format!("structure {value}") }),
            })
            .collect();
        let part = json!({
            "name": "main",
            "architecture": {
                "family": "stunet",
                "input_channels": inputs,
                "classes": classes,
                "channels": channels,
                "blocks": vec![1; stages],
                "strides": strides,
                "kernels": vec![[3, 3, 3]; stages],
            },
            "folds": ["0"],
            "patch": patch,
            "spacing": [1.5, 1.5, 1.5],
            "axes": { "orientation": "stored", "transpose": [0, 1, 2] },
            "generation": "nnunet_v2",
            "normalization": vec![json!({ "scheme": "zscore", "masked": false }); inputs],
            "resampling": {
                "image": { "order": 3, "separate_axis": "auto" },
                "scores": { "order": 1, "separate_axis": "auto" },
            },
            "blend": "logits",
            "mirror_axes": [0, 1, 2],
            "output": { "classes": (0..classes).collect::<Vec<_>>() },
        });
        let document = json!({
            "format_version": 1,
            "name": "seeded",
            "description": "Random weights.",
            "demo": false,
            "labels": labels,
            "parts": [part],
            "provenance": { "source": "random numbers", "license": "Apache-2.0", "files": [] },
        });
        Self { channels, blocks: 1, strides, inputs, classes, folds: 1, background: 0.0, document }
    }

    /// Raises the background's score, so that fewer voxels are of a structure.
    pub fn background(mut self, raised: f32) -> Self {
        self.background = raised;
        self
    }

    /// So many blocks at each level.
    pub fn blocks(mut self, blocks: usize) -> Self {
        self.blocks = blocks;
        let stages = self.channels.len();
        self.document["parts"][0]["architecture"]["blocks"] = json!(vec![blocks; stages]);
        self
    }

    /// More folds of the same shape, with weights of their own.
    pub fn folds(mut self, folds: usize) -> Self {
        self.folds = folds;
        self.document["parts"][0]["folds"] = (0..folds).map(|fold| fold.to_string()).collect();
        self
    }

    /// Replaces one field of the document, or of its only part if it has such a field.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        let part = &mut self.document["parts"][0];
        match part.get_mut(field) {
            Some(place) => *place = value,
            None => self.document[field] = value,
        }
        self
    }

    /// The published names and shapes of one fold's tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let widths = &self.channels;
        let mut stage = |prefix: String, inputs: usize, outputs: usize| {
            for block in 0..self.blocks {
                let name = format!("{prefix}.{block}");
                let inputs = if block == 0 { inputs } else { outputs };
                for (conv, inputs) in [("conv1", inputs), ("conv2", outputs)] {
                    tensors.push((format!("{name}.{conv}.weight"), vec![outputs, inputs, 3, 3, 3]));
                    tensors.push((format!("{name}.{conv}.bias"), vec![outputs]));
                }
                for norm in ["norm1", "norm2"] {
                    tensors.push((format!("{name}.{norm}.weight"), vec![outputs]));
                    tensors.push((format!("{name}.{norm}.bias"), vec![outputs]));
                }
                if block == 0 {
                    tensors.push((format!("{name}.conv3.weight"), vec![outputs, inputs, 1, 1, 1]));
                    tensors.push((format!("{name}.conv3.bias"), vec![outputs]));
                }
            }
        };
        for (level, &width) in widths.iter().enumerate() {
            let inputs = if level == 0 { self.inputs } else { widths[level - 1] };
            stage(format!("conv_blocks_context.{level}"), inputs, width);
        }
        let steps = self.strides.len();
        for up in 0..steps {
            let width = widths[steps - 1 - up];
            stage(format!("conv_blocks_localization.{up}"), 2 * width, width);
        }
        for up in 0..steps {
            let (deep, width) = (widths[steps - up], widths[steps - 1 - up]);
            tensors.push((format!("upsample_layers.{up}.conv.weight"), vec![width, deep, 1, 1, 1]));
            tensors.push((format!("upsample_layers.{up}.conv.bias"), vec![width]));
        }
        let head = format!("seg_outputs.{}", steps - 1);
        tensors.push((format!("{head}.weight"), vec![self.classes, widths[0], 1, 1, 1]));
        tensors.push((format!("{head}.bias"), vec![self.classes]));
        tensors
    }

    /// The package's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut noise = Noise(42);
        let mut data = Vec::new();
        for fold in 0..self.folds {
            for (name, shape) in self.tensors() {
                let fan_in: usize = shape[1..].iter().product();
                let scale = (3.0 / fan_in as f32).sqrt();
                let offset =
                    if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
                let scale = if shape.len() == 1 { 0.2 } else { scale };
                let length = shape.iter().product::<usize>();
                let mut values: Vec<f32> =
                    (0..length).map(|_| offset + noise.next() * scale).collect();
                if name.starts_with("seg_outputs") && name.ends_with("bias") {
                    values[0] += self.background;
                }
                let name = if self.folds == 1 { name } else { format!("fold_{fold}.{name}") };
                data.push((name, shape, bytemuck::cast_slice::<f32, u8>(&values).to_vec()));
            }
        }
        let views = data.iter().map(|(name, shape, bytes)| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let document = ("voxtile".to_string(), self.document.to_string());
        safetensors::serialize(views, Some([document].into_iter().collect())).unwrap()
    }
}
