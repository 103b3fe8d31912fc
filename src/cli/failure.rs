//! How the program ends when it fails.

use std::process::ExitCode;

use voxtile::Error;

use super::report::bytes_text;

/// Exit codes, for `--help`.
pub const HELP: &str = "\
Exit codes:
    0  done
    1  internal or other error
    2  wrong usage
    3  an input can't be read or used
    4  the model can't be read or used
    5  not enough memory, or --memory or --gpu-memory is too small
    6  an output can't be written
    7  some cases of a batch failed; the others are done
    8  the device can't be used, or it failed
  130  cancelled";

/// Why the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Other = 1,
    Usage = 2,
    Input = 3,
    Model = 4,
    Memory = 5,
    Output = 6,
    Cases = 7,
    Device = 8,
    Cancelled = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The reason and what to tell the user.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A failed step whose errors mean `exit`, unless they speak for themselves.
    pub fn of(exit: Exit) -> impl Fn(Error) -> Self {
        move |error| match &error {
            Error::Cancelled => Self::new(Exit::Cancelled, "cancelled; nothing was written"),
            Error::Internal(_) => Self::new(Exit::Other, error.to_string()),
            Error::Memory { what, needed_bytes, available_bytes } => {
                let mut sizes = [*needed_bytes, *available_bytes].map(bytes_text);
                // Rounded, one might not seem to be more than the other.
                if sizes[0] == sizes[1] {
                    sizes = [needed_bytes, available_bytes].map(|bytes| format!("{bytes} bytes"));
                }
                let [needed, available] = sizes;
                Self::new(
                    Exit::Memory,
                    match available_bytes {
                        0 => format!("{what}: {needed} can't be allocated on this machine"),
                        _ => format!(
                            "{what} needs {needed}, but {available} are allowed; raise --memory to \
                             at least {needed_bytes}"
                        ),
                    },
                )
            }
            Error::DeviceMemory { what, device, needed_bytes, available_bytes } => Self::new(
                Exit::Memory,
                format!(
                    "{what} needs {} of the memory of {device}, of which {} are available; free \
                     some, raise --gpu-memory if it is given, or use --device cpu",
                    bytes_text(*needed_bytes),
                    bytes_text(*available_bytes)
                ),
            ),
            Error::NoDevice(_) | Error::Device { .. } => Self::new(Exit::Device, error.to_string()),
            _ => Self::new(exit, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_exit_code() {
        use Exit::*;
        for exit in [Other, Usage, Input, Model, Memory, Output, Cases, Device, Cancelled] {
            assert!(HELP.contains(&format!("{:>5}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn errors_that_speak_for_themselves_have_their_own_code() {
        let exit = |error| Failure::of(Exit::Input)(error).exit;
        assert_eq!(exit(Error::argument("x")), Exit::Input);
        assert_eq!(exit(Error::Cancelled), Exit::Cancelled);
        assert_eq!(exit(Error::Internal("x".into())), Exit::Other);
        let memory =
            Error::Memory { what: "it".into(), needed_bytes: 3 << 30, available_bytes: 1 << 30 };
        let failure = Failure::of(Exit::Input)(memory);
        assert_eq!(failure.exit, Exit::Memory);
        assert!(failure.message.contains("needs 3.00 GiB, but 1.00 GiB"), "{}", failure.message);
        assert!(failure.message.contains("--memory to at least 3221225472"));
        let memory = Error::DeviceMemory {
            what: "the network".into(),
            device: "a GPU".into(),
            needed_bytes: 3 << 30,
            available_bytes: 1 << 30,
        };
        let failure = Failure::of(Exit::Input)(memory);
        assert_eq!(failure.exit, Exit::Memory);
        let expected = "the network needs 3.00 GiB of the memory of a GPU, of which 1.00 GiB";
        assert!(failure.message.contains(expected), "{}", failure.message);
        assert_eq!(exit(Error::NoDevice("x".into())), Exit::Device);
        let close = Error::Memory {
            what: "it".into(),
            needed_bytes: 5 << 20,
            available_bytes: (5 << 20) - 1,
        };
        let message = Failure::of(Exit::Input)(close).message;
        assert!(message.contains("needs 5242880 bytes, but 5242879 bytes are"), "{message}");
    }
}
