//! Which device a session gets, and why.

use std::sync::Arc;

use super::run::Loaded;
use super::{SessionOptions, size};
use crate::base::{Error, Pool, Result};
use crate::device::{self, Device, DeviceInfo, MemoryPart, Opened, Place, Precision};
use crate::model::Model;
use crate::net::Plan;

/// Where a session runs, and how it came to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenDevice {
    /// The device.
    pub info: DeviceInfo,
    /// How it holds the network's values.
    pub precision: Precision,
    /// Where the choice was left to voxtile and the processor was taken: why no GPU was.
    pub fallback: Option<String>,
}

/// One for each part of the model.
pub(super) type Plans = Vec<Arc<Plan>>;

/// The plans of a model's parts, as the device wants them.
fn plans(model: &Model, device: &dyn Device) -> Result<Plans> {
    let parts = 0..model.package().parts.len();
    parts.map(|part| Ok(Arc::new(device.plan(model.network(part).clone())?))).collect()
}

/// Opens the device that the options ask for. Where they leave the choice, a GPU that can't compute
/// the model's networks or has no room for them is left alone.
pub(super) fn open(
    options: &SessionOptions,
    model: &Model,
    pool: &Arc<Pool>,
) -> Result<(Box<dyn Device>, Plans, ChosenDevice)> {
    device::open(options.device, options.precision, pool, |opened| {
        let plans = plans(model, &*opened.device)?;
        fits(options, model, &plans, &*opened.device)?;
        let (device, chosen) = placed(opened);
        Ok((device, plans, chosen))
    })
}

/// As [`open`], with the first part of the model loaded.
pub(super) fn load(
    options: &SessionOptions,
    model: &Model,
    pool: &Arc<Pool>,
) -> Result<(Loaded, Plans, ChosenDevice)> {
    device::open(options.device, options.precision, pool, |opened| {
        let plans = plans(model, &*opened.device)?;
        fits(options, model, &plans, &*opened.device)?;
        let most = largest(model, &plans, &*opened.device, Place::Host)?;
        size::obey(options.host_budget_bytes, most, "the network")?;
        let (device, chosen) = placed(opened);
        let mut loaded = Loaded::new(device);
        loaded.load(0, &plans[0], model)?;
        Ok((loaded, plans, chosen))
    })
}

fn placed(opened: Opened) -> (Box<dyn Device>, ChosenDevice) {
    let Opened { device, fallback } = opened;
    let chosen =
        ChosenDevice { info: device.info().clone(), precision: device.precision(), fallback };
    (device, chosen)
}

/// The most that one of the model's networks takes in a place.
fn largest(model: &Model, plans: &[Arc<Plan>], device: &dyn Device, place: Place) -> Result<u64> {
    plans.iter().zip(&model.package().parts).try_fold(0, |most, (plan, part)| {
        let parts = device.loaded_memory(plan, part.folds.len())?;
        Ok(most.max(MemoryPart::sum(&parts, place)))
    })
}

/// An error if a device can't compute a network or has no room for it.
fn fits(
    options: &SessionOptions,
    model: &Model,
    plans: &[Arc<Plan>],
    device: &dyn Device,
) -> Result<()> {
    let needed_bytes = largest(model, plans, device, Place::Device)?;
    let available = options.device_budget_bytes.into_iter().chain(device.free_bytes()?).min();
    match available {
        Some(available_bytes) if needed_bytes > available_bytes => Err(Error::DeviceMemory {
            what: "the network".into(),
            device: device.info().name.clone(),
            needed_bytes,
            available_bytes,
        }),
        _ => Ok(()),
    }
}
