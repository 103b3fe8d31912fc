//! Whole numbers of up to 16 bits, held in 16 bits whatever type they were stored with.
//!
//! Programs often store CT as 32-bit integers or floating point numbers. Every value that is held
//! as `i16` is exactly the one that was stored: 0.5, -0.0 and NaN have no place there, and with the
//! first of them all values get their stored type back.

use crate::base::error::reserved;
use crate::base::{Element, Error, Result};

/// Calls `$function::<T>` with the Rust type of an element that may be held as `i16`, or takes
/// `$else`.
macro_rules! with_wide {
    ($element:expr, $function:ident($($argument:expr),*), else $otherwise:expr) => {
        match $element {
            Element::U32 => $function::<u32, 4>($($argument),*),
            Element::I32 => $function::<i32, 4>($($argument),*),
            Element::U64 => $function::<u64, 8>($($argument),*),
            Element::I64 => $function::<i64, 8>($($argument),*),
            Element::F32 => $function::<f32, 4>($($argument),*),
            Element::F64 => $function::<f64, 8>($($argument),*),
            _ => $otherwise,
        }
    };
}

/// A type of more than 16 bits.
trait Wide<const SIZE: usize>: Copy {
    fn read(bytes: [u8; SIZE]) -> Self;

    /// The value as `i16`, and whether that is exactly the same.
    fn narrow(self) -> (i16, bool);

    fn bytes_of(value: i16) -> [u8; SIZE];
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wide<{ size_of::<$type>() }> for $type {
            fn read(bytes: [u8; size_of::<$type>()]) -> Self {
                Self::from_ne_bytes(bytes)
            }

            fn narrow(self) -> (i16, bool) {
                (self as i16, i16::try_from(self).is_ok())
            }

            fn bytes_of(value: i16) -> [u8; size_of::<$type>()] {
                (value as Self).to_ne_bytes()
            }
        }
    )*};
}
integers!(u32, i32, u64, i64);

macro_rules! floats {
    ($($type:ty),*) => {$(
        impl Wide<{ size_of::<$type>() }> for $type {
            fn read(bytes: [u8; size_of::<$type>()]) -> Self {
                Self::from_ne_bytes(bytes)
            }

            fn narrow(self) -> (i16, bool) {
                let narrow = self as i16;
                (narrow, Self::from(narrow).to_bits() == self.to_bits())
            }

            fn bytes_of(value: i16) -> [u8; size_of::<$type>()] {
                Self::from(value).to_ne_bytes()
            }
        }
    )*};
}
floats!(f32, f64);

/// Appends a block of values as `i16`, and says whether all of them fit; if not, nothing is
/// appended.
fn append_narrow<T: Wide<SIZE>, const SIZE: usize>(bytes: &mut Vec<u8>, block: &[u8]) -> bool {
    let (start, (values, _)) = (bytes.len(), block.as_chunks());
    bytes.resize(start + 2 * values.len(), 0);
    let mut all = true;
    for (into, value) in bytes[start..].as_chunks_mut().0.iter_mut().zip(values) {
        let (narrow, same) = T::read(*value).narrow();
        *into = narrow.to_ne_bytes();
        all &= same;
    }
    if !all {
        bytes.truncate(start);
    }
    all
}

/// In place, from the last to the first, so that nothing is overwritten before it is read.
fn widen_all<T: Wide<SIZE>, const SIZE: usize>(bytes: &mut Vec<u8>) {
    let count = bytes.len() / 2;
    bytes.resize(count * SIZE, 0);
    for n in (0..count).rev() {
        let value = i16::from_ne_bytes([bytes[2 * n], bytes[2 * n + 1]]);
        bytes[n * SIZE..(n + 1) * SIZE].copy_from_slice(&T::bytes_of(value));
    }
}

/// Gives values that are held as `i16` the type `stored` back, with room for `room` values in all.
/// There is never a second copy.
///
/// # Errors
/// [`Error::Memory`].
pub(super) fn widen(what: &str, bytes: &mut Vec<u8>, stored: Element, room: usize) -> Result<()> {
    let needed = room.max(bytes.len() / 2).saturating_mul(stored.size());
    bytes.try_reserve_exact(needed.saturating_sub(bytes.len())).map_err(|_| Error::Memory {
        what: what.into(),
        needed_bytes: needed as u64,
        available_bytes: 0,
    })?;
    with_wide!(stored, widen_all(bytes), else ());
    Ok(())
}

/// Values that come in blocks, held as `i16` while all of them fit.
pub(super) struct Values {
    what: String,
    bytes: Vec<u8>,
    stored: Element,
    element: Element,
    count: usize,
}

impl Values {
    /// Room for `count` values; `what` is what messages call them.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(super) fn new(what: String, stored: Element, count: usize) -> Result<Self> {
        let wide = matches!(
            stored,
            Element::U32 | Element::I32 | Element::U64 | Element::I64 | Element::F32 | Element::F64
        );
        let element = if wide { Element::I16 } else { stored };
        let bytes = reserved(&what, count.saturating_mul(element.size()))?;
        Ok(Self { what, bytes, stored, element, count })
    }

    /// Appends whole values, as they were stored but in the machine's byte order.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(super) fn append(&mut self, block: &[u8]) -> Result<()> {
        if self.element != self.stored {
            let bytes = &mut self.bytes;
            if with_wide!(self.stored, append_narrow(bytes, block), else false) {
                return Ok(());
            }
            widen(&self.what, &mut self.bytes, self.stored, self.count)?;
            self.element = self.stored;
        }
        self.bytes.extend_from_slice(block);
        Ok(())
    }

    /// The values, and the type they are held as.
    pub(super) fn finish(self) -> (Vec<u8>, Element) {
        (self.bytes, self.element)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is held after blocks of `block` values.
    fn held(stored: Element, values: &[u8], block: usize) -> (Vec<u8>, Element) {
        let count = values.len() / stored.size();
        let mut held = Values::new("values".into(), stored, count).unwrap();
        values.chunks(block * stored.size()).for_each(|block| held.append(block).unwrap());
        held.finish()
    }

    macro_rules! cases {
        ($(($type:ident, $element:ident)),*) => {$(
            /// Values that all fit come back from `i16`; one that does not, wherever it stands,
            /// leaves all of them as they were.
            mod $type {
                use super::*;

                fn bytes(values: &[$type]) -> Vec<u8> {
                    bytemuck::cast_slice(values).to_vec()
                }

                proptest! {
                    #[test]
                    fn small_values_are_held_in_16_bits(
                        values in prop::collection::vec(0..=i16::MAX, 1..50),
                        negative in any::<bool>(),
                        block in 1..9usize,
                    ) {
                        let signed = $type::MIN != (0 as $type);
                        let sign = if negative && signed { -1 } else { 1 };
                        let values: Vec<i16> = values.iter().map(|value| sign * value).collect();
                        let stored: Vec<$type> = values.iter().map(|&v| v as $type).collect();
                        let found = held(Element::$element, &bytes(&stored), block);
                        prop_assert_eq!(
                            &found,
                            &(bytemuck::cast_slice(&values).to_vec(), Element::I16)
                        );
                        let mut wide = found.0;
                        widen("values", &mut wide, Element::$element, 0).unwrap();
                        prop_assert_eq!(wide, bytes(&stored));
                    }

                    #[test]
                    fn one_other_value_leaves_all_as_they_were(
                        values in prop::collection::vec(0..=i16::MAX, 1..50),
                        place in any::<prop::sample::Index>(),
                        block in 1..9usize,
                    ) {
                        for other in others::$type() {
                            let mut stored: Vec<$type> =
                                values.iter().map(|&v| v as $type).collect();
                            let place = place.index(stored.len());
                            stored[place] = other;
                            prop_assert_eq!(
                                held(Element::$element, &bytes(&stored), block),
                                (bytes(&stored), Element::$element)
                            );
                        }
                    }
                }
            }
        )*};
    }
    cases!((u32, U32), (i32, I32), (u64, U64), (i64, I64), (f32, F32), (f64, F64));

    /// Values that `i16` can't hold.
    mod others {
        pub fn u32() -> Vec<u32> {
            vec![1 << 15, 1 << 16, u32::MAX, u32::MAX - 5]
        }
        pub fn i32() -> Vec<i32> {
            vec![1 << 15, -(1 << 15) - 1, 1 << 16, i32::MAX, i32::MIN]
        }
        pub fn u64() -> Vec<u64> {
            vec![1 << 15, 1 << 16, 1 << 32, u64::MAX, u64::MAX - 5]
        }
        pub fn i64() -> Vec<i64> {
            vec![1 << 15, -(1 << 15) - 1, 1 << 16, 1 << 32, i64::MAX, i64::MIN]
        }
        pub fn f32() -> Vec<f32> {
            let wide = [0.5, -0.0, 32768.0, -32769.0, 1e-30, 1e30, f32::MIN_POSITIVE];
            let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            [&wide[..], &special].concat()
        }
        pub fn f64() -> Vec<f64> {
            let wide = [0.5, -0.0, 32768.0, -32769.0, 1.0 + f64::EPSILON, 1e300, 5e-324];
            let special = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
            [&wide[..], &special].concat()
        }
    }

    #[test]
    fn types_of_up_to_16_bits_stay() {
        for element in [Element::U8, Element::I8, Element::U16, Element::I16] {
            let values: Vec<u8> = (0..24).map(|n| n * 9).collect();
            assert_eq!(held(element, &values, 5), (values, element));
        }
    }
}
