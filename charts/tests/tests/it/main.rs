//! The chart: what it renders, what it refuses, and what a real API server says to it.

mod cluster;
mod documents;
mod refusals;
mod rendering;
mod spelling;
mod variants;
