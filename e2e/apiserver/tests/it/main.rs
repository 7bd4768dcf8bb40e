//! What the other crates' tests may expect of the real API server.

mod real;
