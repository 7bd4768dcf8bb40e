//! Cuts a byte stream into JSON objects, wherever a server puts its line breaks, with a bound on each.

use bytes::{Buf as _, Bytes, BytesMut};

/// The largest event. etcd refuses objects above 1.5 MiB; as JSON they are a few times larger at most.
pub(super) const EVENT_LIMIT: usize = 8 << 20;

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("an event is larger than {EVENT_LIMIT} bytes")]
    TooLarge,
    #[error("the watch sent something that is not JSON")]
    NotJson,
    #[error("the watch ended within an event")]
    Truncated,
}

/// The bytes of a watch that are not read yet.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    scanned: usize,
    depth: u32,
    text: Text,
}

/// Where the scanner is: brackets within strings do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    Escape,
}

impl Frames {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole object; `None` until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.depth == 0 {
            let blank = self
                .buffer
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => self.scanned = 0,
                Some(_) => return Err(Broken::NotJson),
            }
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if self.closes(byte) {
                return self.cut();
            }
        }
        if self.buffer.len() > EVENT_LIMIT {
            return Err(Broken::TooLarge);
        }
        Ok(None)
    }

    /// Whether nothing but blanks is left when the stream ends.
    pub(super) fn finish(&self) -> Result<(), Broken> {
        if self.buffer.iter().all(u8::is_ascii_whitespace) {
            Ok(())
        } else {
            Err(Broken::Truncated)
        }
    }

    fn cut(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.scanned > EVENT_LIMIT {
            return Err(Broken::TooLarge);
        }
        let frame = self.buffer.split_to(self.scanned).freeze();
        self.scanned = 0;
        Ok(Some(frame))
    }

    /// Whether `byte` ends the object.
    fn closes(&mut self, byte: u8) -> bool {
        match (self.text, byte) {
            (Text::Escape, _) => self.text = Text::Inside,
            (Text::Inside, b'\\') => self.text = Text::Escape,
            (Text::Inside, b'"') => self.text = Text::Outside,
            (Text::Inside, _) => {}
            (Text::Outside, b'"') => self.text = Text::Inside,
            (Text::Outside, b'{' | b'[') => self.depth += 1,
            (Text::Outside, b'}' | b']') => {
                self.depth -= 1;
                return self.depth == 0;
            }
            (Text::Outside, _) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<String>, Result<(), Broken>) {
        let mut frames = Frames::default();
        let mut read = Vec::new();
        for chunk in chunks {
            frames.push(chunk);
            loop {
                match frames.next() {
                    Ok(Some(frame)) => read.push(String::from_utf8_lossy(&frame).into_owned()),
                    Ok(None) => break,
                    Err(broken) => return (read, Err(broken)),
                }
            }
        }
        (read, frames.finish())
    }

    #[test]
    fn objects_need_no_line_breaks_of_their_own() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(
                read(&[text.as_bytes()]),
                (expected.iter().map(ToString::to_string).collect(), Ok(()))
            );
        };
        check("", &[]);
        check("{}\n{\"a\":1}\n", &["{}", "{\"a\":1}"]);
        check("{}{}", &["{}", "{}"]);
        check("{\n \"a\": [\n{}]\n}\r\n\n", &["{\n \"a\": [\n{}]\n}"]);
        check(r#"{"}":"\"}\\"}"#, &[r#"{"}":"\"}\\"}"#]);
    }

    #[test]
    fn what_is_not_a_stream_of_objects_is_refused() {
        let check =
            |text: &str, expected| assert_eq!(read(&[text.as_bytes()]).1, Err(expected), "{text}");
        check("{}\nnonsense", Broken::NotJson);
        check("]", Broken::NotJson);
        check("<html>", Broken::NotJson);
        check("{}\n{\"a\":", Broken::Truncated);
    }

    #[test]
    fn an_event_has_a_bound() {
        let long = vec![b'x'; EVENT_LIMIT];
        assert_eq!(read(&[b"{\"", &long]).1, Err(Broken::TooLarge));
        assert_eq!(read(&[b"{\"", &long, b"\"}"]).1, Err(Broken::TooLarge));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(values in proptest::collection::vec("\\PC*", 0..5), cut in 1_usize..20) {
            let objects: Vec<String> =
                values.iter().map(|text| serde_json::json!({"k": {"[": [text]}}).to_string()).collect();
            let stream = objects.join("\n");
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(cut).collect();
            prop_assert_eq!(read(&chunks), (objects, Ok(())));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..20) {
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let (frames, _) = read(&chunks);
            let whole = frames.iter().all(|frame| frame.starts_with('{'));
            prop_assert!(whole);
        }
    }
}
