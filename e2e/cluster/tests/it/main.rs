//! Stories in a real cluster. They share one control plane, so each takes its turn.

mod actors;
mod apps;
mod documentation;
mod figures;
mod install;
mod jobs;
mod outages;
mod resources;
mod samples;
mod scripts;
mod security;
mod verbs;
