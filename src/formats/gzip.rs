//! gzip (RFC 1952), compressed by several threads.
//!
//! Pieces of a fixed size are compressed each on its own and end on a whole byte, with an empty
//! block (RFC 1951, section 3.2.4). One after the other they are one stream, which any reader
//! takes and whose bytes do not depend on the number of threads.

use std::io::{self, Write};

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use crate::base::Pool;

/// Bytes that are compressed on their own: of label maps they cost below a thousandth in size.
const PIECE: usize = 1 << 20;

/// Compresses what is written to it into `file`.
pub(super) struct GzipWriter<'a, W> {
    file: W,
    pool: &'a Pool,
    level: Compression,
    pending: Vec<u8>,
    checksum: Crc,
}

impl<'a, W: Write> GzipWriter<'a, W> {
    pub(super) fn new(mut file: W, level: u32, pool: &'a Pool) -> io::Result<Self> {
        // Deflate, no flags, no time, nothing of the compressor, system unknown.
        file.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        let level = Compression::new(level);
        Ok(Self { file, pool, level, pending: Vec::new(), checksum: Crc::new() })
    }

    /// Ends the stream; the file is flushed.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.compress()?;
        let end = DeflateEncoder::new(Vec::new(), self.level).finish()?;
        self.file.write_all(&end)?;
        self.file.write_all(&self.checksum.sum().to_le_bytes())?;
        self.file.write_all(&self.checksum.amount().to_le_bytes())?;
        self.file.flush()
    }

    fn compress(&mut self) -> io::Result<()> {
        let pieces = self.pending.chunks(PIECE);
        let mut compressed: Vec<io::Result<(Vec<u8>, Crc)>> =
            pieces.clone().map(|_| Ok(Default::default())).collect();
        self.pool.for_each(pieces.zip(&mut compressed).collect(), |_, (piece, into), _| {
            *into = deflate(piece, self.level);
        });
        for piece in compressed {
            let (bytes, checksum) = piece?;
            self.file.write_all(&bytes)?;
            self.checksum.combine(&checksum);
        }
        self.pending.clear();
        Ok(())
    }
}

/// Blocks of which none is the last, and the checksum of `bytes`.
fn deflate(bytes: &[u8], level: Compression) -> io::Result<(Vec<u8>, Crc)> {
    let mut checksum = Crc::new();
    checksum.update(bytes);
    let mut encoder = DeflateEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.flush()?;
    Ok((std::mem::take(encoder.get_mut()), checksum))
}

impl<W: Write> Write for GzipWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.pool.threads() * PIECE - self.pending.len();
        let taken = bytes.len().min(room);
        self.pending.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.compress()?;
        }
        Ok(taken)
    }

    /// Compresses nothing early, so that pieces keep their size.
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn compressed(bytes: &[u8], threads: usize) -> Vec<u8> {
        let pool = Pool::new(threads).unwrap();
        let mut file = Vec::new();
        let mut writer = GzipWriter::new(&mut file, 4, &pool).unwrap();
        for part in bytes.chunks(700_001) {
            writer.write_all(part).unwrap();
            writer.flush().unwrap();
        }
        writer.finish().unwrap();
        file
    }

    #[test]
    fn what_was_written_is_read_again_and_threads_do_not_change_it() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * at / 9999 % 251) as u8).collect();
            let file = compressed(&bytes, 1);
            // One stream: nothing is left after it.
            let mut read = Vec::new();
            let mut decoder = GzDecoder::new(&file[..]);
            decoder.read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{length} bytes");
            assert!(decoder.into_inner().is_empty());
            for threads in [2, 3] {
                assert!(compressed(&bytes, threads) == file, "{length} bytes, {threads} threads");
            }
        }
    }
}
