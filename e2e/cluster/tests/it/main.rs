//! Stories in a real cluster. They share one control plane, so each takes its turn.

mod apps;
mod documentation;
mod install;
