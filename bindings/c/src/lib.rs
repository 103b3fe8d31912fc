//! The C ABI of voxtile.
