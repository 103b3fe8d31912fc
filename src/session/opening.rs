//! Which device a session gets, and why.

use std::sync::Arc;

use super::run::Loaded;
use super::{SessionOptions, size};
use crate::base::{Error, Pool, Result};
use crate::device::{self, Device, DeviceChoice, DeviceInfo, MemoryPart, Opened, Place, Precision};
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

/// Opens the device that the options ask for. Where they leave the choice, a GPU that has no room
/// for the model's networks is left alone.
pub(super) fn open(
    options: &SessionOptions,
    model: &Model,
    plans: &[Arc<Plan>],
    pool: &Arc<Pool>,
) -> Result<(Box<dyn Device>, ChosenDevice)> {
    let opened = device::open(options.device, options.precision, Arc::clone(pool))?;
    match fits(options, model, plans, &*opened.device) {
        Err(error) => processor_instead(options, pool, error),
        Ok(()) => Ok(placed(opened)),
    }
}

/// As [`open`], with the first part of the model loaded.
pub(super) fn load(
    options: &SessionOptions,
    model: &Model,
    plans: &[Arc<Plan>],
    pool: &Arc<Pool>,
) -> Result<(Loaded, ChosenDevice)> {
    let (device, chosen) = open(options, model, plans, pool)?;
    let ready = |device: Box<dyn Device>| {
        let most = largest(model, plans, &*device, Place::Host);
        size::obey(options.host_budget_bytes, most, "the network")?;
        let mut loaded = Loaded::new(device);
        loaded.load(0, &plans[0], model)?;
        Ok(loaded)
    };
    match ready(device) {
        Ok(loaded) => Ok((loaded, chosen)),
        Err(error) => {
            let (device, chosen) = processor_instead(options, pool, error)?;
            Ok((ready(device)?, chosen))
        }
    }
}

fn placed(opened: Opened) -> (Box<dyn Device>, ChosenDevice) {
    let Opened { device, fallback } = opened;
    let chosen =
        ChosenDevice { info: device.info().clone(), precision: device.precision(), fallback };
    (device, chosen)
}

/// The processor, if a GPU's error is one that it does not have and the choice was left to us.
fn processor_instead(
    options: &SessionOptions,
    pool: &Arc<Pool>,
    error: Error,
) -> Result<(Box<dyn Device>, ChosenDevice)> {
    let of_the_gpu = matches!(error, Error::DeviceMemory { .. } | Error::Device { .. });
    if !of_the_gpu
        || options.device != DeviceChoice::Auto
        || options.precision == Some(Precision::F16)
    {
        return Err(error);
    }
    let opened = device::open(DeviceChoice::Cpu, options.precision, Arc::clone(pool))?;
    Ok(placed(Opened { fallback: Some(error.to_string()), ..opened }))
}

/// The most that one of the model's networks takes in a place.
fn largest(model: &Model, plans: &[Arc<Plan>], device: &dyn Device, place: Place) -> u64 {
    let parts = plans.iter().zip(&model.package().parts);
    let bytes = parts
        .map(|(plan, part)| MemoryPart::sum(&device.loaded_memory(plan, part.folds.len()), place));
    bytes.max().unwrap_or(0)
}

/// An error if a device has no room for a network.
fn fits(
    options: &SessionOptions,
    model: &Model,
    plans: &[Arc<Plan>],
    device: &dyn Device,
) -> Result<()> {
    let free = device.free_bytes()?;
    let Some(available_bytes) = options.device_budget_bytes.into_iter().chain(free).min() else {
        return Ok(());
    };
    let needed_bytes = largest(model, plans, device, Place::Device);
    if needed_bytes <= available_bytes {
        return Ok(());
    }
    Err(Error::DeviceMemory {
        what: "the network".into(),
        device: device.info().name.clone(),
        needed_bytes,
        available_bytes,
    })
}
