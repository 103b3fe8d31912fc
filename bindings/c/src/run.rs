//! Running a session on the caller's volume.

use std::ops::ControlFlow;

use engine::session::{Level, Observer, Phase, ProbabilityBox, Progress};
use engine::{Error, Result};

use crate::guard::{guard, read_versioned, required};
use crate::handles::{Log, voxtile_session};
use crate::options::{given_or_default, mask, wishes};
use crate::output::{check, deliver};
use crate::staged::Staged;
use crate::types::*;
use crate::volume::view;

/// Follows a run for the caller.
struct Caller<'a> {
    options: &'a voxtile_run_options,
    log: Log,
    /// Label values whose probabilities are wanted.
    wanted: &'a [u32],
    staged: Staged,
}

impl Observer for Caller<'_> {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        let Some(function) = self.options.progress else { return ControlFlow::Continue(()) };
        let told = voxtile_progress {
            struct_size: size_of::<voxtile_progress>() as u32,
            phase: match progress.phase {
                Phase::Prepare => VOXTILE_PHASE_PREPARE,
                Phase::Tiles => VOXTILE_PHASE_TILES,
                Phase::Restore => VOXTILE_PHASE_RESTORE,
            },
            done: progress.done as u64,
            total: progress.total as u64,
            seconds: progress.seconds,
        };
        // SAFETY: the caller gave function and pointer for this use.
        match unsafe { function(self.options.progress_user, &raw const told) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    fn message(&mut self, level: Level, text: &str) {
        let level = match level {
            Level::Info => VOXTILE_LOG_INFO,
            Level::Warning => VOXTILE_LOG_WARNING,
        };
        self.log.say(level, text);
    }

    fn probabilities(&mut self, found: &ProbabilityBox) -> Result<()> {
        self.staged.put(found)?;
        let Some(function) = self.options.probability else { return Ok(()) };
        let labels: Vec<u32> = found.labels.iter().map(|&label| self.wanted[label]).collect();
        let told = voxtile_probability_box {
            struct_size: size_of::<voxtile_probability_box>() as u32,
            label_count: labels.len() as u32,
            label_values: labels.as_ptr(),
            grid: found.grid.map(|extent| extent as i64),
            start: found.range.each_ref().map(|range| range.start as i64),
            size: found.range.each_ref().map(|range| range.len() as i64),
            values: found.values.as_ptr(),
        };
        // SAFETY: the caller gave function and pointer for this use.
        match unsafe { function(self.options.probability_user, &raw const told) } {
            0 => Ok(()),
            _ => Err(Error::Cancelled),
        }
    }
}

/// Segments `volume` into the caller's buffers, which are written only on VOXTILE_OK. `options`
/// may be NULL for the defaults.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn voxtile_run(
    session: *const voxtile_session,
    volume: *const voxtile_volume,
    options: *const voxtile_run_options,
    output: *const voxtile_output,
    error: *mut voxtile_error,
) -> voxtile_status {
    // SAFETY: the caller vouches for its pointers; they are checked before use.
    unsafe {
        guard(error, || {
            required(session, "session")?.unbroken(|handle| {
                let view = view(&read_versioned(volume, "volume")?)?;
                let given = given_or_default(options)?;
                let output = read_versioned(output, "output")?;
                check(handle, &view, &given, &output)?;
                let mut wishes = wishes(&given, Some(&output), view.dims)?;
                if let Some(mask) = mask(&given, view.voxels())? {
                    wishes.region = Some(mask);
                }
                let staged = match Staged::wanted(&given, &output) {
                    true => Staged::new(&output, view.voxels())?,
                    false => Staged::default(),
                };
                let wanted = &wishes.probabilities;
                let mut caller = Caller { options: &given, log: handle.log, wanted, staged };
                let found = handle.session.run(&view, &wishes, &mut caller)?;
                deliver(&found, &caller.staged, &output);
                Ok(())
            })
        })
    }
}
