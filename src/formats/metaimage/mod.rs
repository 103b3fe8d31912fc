//! MetaImage: `.mha`, and `.mhd` with its data file.
//!
//! Fields and their meaning: <https://itk.org/Wiki/MetaIO/Documentation>; as ITK's `MetaImageIO`
//! reads them, positions are LPS whatever `AnatomicalOrientation` says.

mod fields;
mod header;
mod read;
mod write;

pub(super) use read::{open, recognizes};
pub(super) use write::{data_file_name, header};
