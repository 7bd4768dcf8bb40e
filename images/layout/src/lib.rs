//! Which functions of a program lie beside each other.
//!
//! A call passes through about a thousand functions of thirty thousand. Where the linker leaves them, among their kin,
//! every call touches 400 pages of code, and the kernel maps 64 KiB around each of them. Laid side by side, what calls
//! need is half of that for the processor, and a third less memory for an idle process.
//!
//! The order is a file of names ([`order::Order`]), taken from a profile once ([`profile`]). A name of it means the same
//! whatever the compiler, the version or the processor: what differs between those in a symbol is not part of it. A
//! function the file does not know lies behind the others, and a name without a function is nothing: an old order is a
//! worse order, never a wrong program.

pub mod link;
pub mod order;
pub mod profile;
