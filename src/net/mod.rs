//! A network as plain data: its tensors, its parameters, the operations in order, and the plan
//! that places every tensor in one arena. Knows no device and no file.

pub mod network;
pub mod plan;
pub mod weights;

pub use network::{
    Affine, AveragePool, Conv, Epilogue, Head, Join, Network, Normalization, Op, Parameter,
    ParameterId, Reading, Source, StatisticsId, Tensor, TensorId,
};
pub use plan::{Displacement, Plan};
pub use weights::Weights;
