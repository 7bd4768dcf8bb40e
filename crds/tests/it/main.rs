//! The CRD documents, the types that go with them, and what users' files yield.

#[cfg(test)]
mod documents;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod types;
