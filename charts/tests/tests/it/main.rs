//! The chart: what it renders, what it refuses, and what a real API server says to it. And the images it names.

mod cluster;
mod documents;
mod images;
mod refusals;
mod rendering;
mod spelling;
mod variants;
