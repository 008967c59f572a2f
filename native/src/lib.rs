//! The leaf functions of edgeproxy's codec of HTTP heads: bytes in, a value or "need more" or an error out.
//!
//! Rules: no I/O, threads, clocks or globals; nothing is decided here that is not a matter of bytes. Shapes and
//! meanings are in `edgeproxy/codec/_native.pyi`; `_pure.py` is the same in Python, and the tests compare the two.

pub mod chunk;
pub mod emit;
pub mod fields;
pub mod head;
#[cfg(feature = "python")]
mod python;
pub mod text;
