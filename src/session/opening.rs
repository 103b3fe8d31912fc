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
    choose(options, pool, |opened| {
        fits(options, model, plans, &*opened.device)?;
        Ok(placed(opened))
    })
}

/// As [`open`], with the first part of the model loaded.
pub(super) fn load(
    options: &SessionOptions,
    model: &Model,
    plans: &[Arc<Plan>],
    pool: &Arc<Pool>,
) -> Result<(Loaded, ChosenDevice)> {
    choose(options, pool, |opened| {
        fits(options, model, plans, &*opened.device)?;
        let most = largest(model, plans, &*opened.device, Place::Host);
        size::obey(options.host_budget_bytes, most, "the network")?;
        let (device, chosen) = placed(opened);
        let mut loaded = Loaded::new(device);
        loaded.load(0, &plans[0], model)?;
        Ok((loaded, chosen))
    })
}

/// Makes something ready on the device that the options ask for. Where they leave the choice: on the
/// first GPU where it succeeds, or else on the processor.
fn choose<T>(
    options: &SessionOptions,
    pool: &Arc<Pool>,
    ready: impl Fn(Opened) -> Result<T>,
) -> Result<T> {
    let open = |choice| device::open(choice, options.precision, Arc::clone(pool));
    let DeviceChoice::Auto = options.device else { return ready(open(options.device)?) };
    let (mut refused, mut any_opened) = (Vec::new(), false);
    for ordinal in 0..device::gpu_count().unwrap_or(0) {
        let opened = open(DeviceChoice::Cuda(ordinal));
        any_opened |= opened.is_ok();
        match opened.and_then(&ready) {
            Err(error) if of_the_gpu(&error) => refused.push(error),
            done => return done,
        }
    }
    let absent = |error: &Error| matches!(error, Error::NoDevice(_) | Error::Unsupported(_));
    if !any_opened && refused.iter().all(absent) {
        // It says why there is none.
        return ready(open(DeviceChoice::Auto)?);
    }
    if options.precision == Some(Precision::F16) {
        return Err(refused.swap_remove(0));
    }
    let whys: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let opened = open(DeviceChoice::Cpu)?;
    ready(Opened { fallback: Some(whys.join("; ")), ..opened })
}

/// Whether an error is one that another device may not have.
fn of_the_gpu(error: &Error) -> bool {
    matches!(
        error,
        Error::NoDevice(_)
            | Error::Unsupported(_)
            | Error::DeviceMemory { .. }
            | Error::Device { .. }
    )
}

fn placed(opened: Opened) -> (Box<dyn Device>, ChosenDevice) {
    let Opened { device, fallback } = opened;
    let chosen =
        ChosenDevice { info: device.info().clone(), precision: device.precision(), fallback };
    (device, chosen)
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
