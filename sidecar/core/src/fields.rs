//! JSON objects as Go reads them: field names in any letter case, `null` as good as absent, the last of
//! several fields of one name. Clients that serialise their optional fields depend on it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object, their values as they stand in the body.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Name<'a>, &'a RawValue)>);

#[derive(Debug, serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Fields<'a> {
    /// The value of a field; `None` where it is absent or `null`.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.verbatim(name).filter(|raw| raw.get() != "null")
    }

    /// The value of a field, `null` included.
    pub fn verbatim(&self, name: &str) -> Option<&'a RawValue> {
        let mut fields = self.0.iter().rev();
        let (_, raw) = fields.find(|(known, _)| known.0.eq_ignore_ascii_case(name))?;
        Some(*raw)
    }

    /// The value of a field that may borrow from the body.
    ///
    /// # Errors
    /// It is of another type.
    pub fn borrowed<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        let raw = self.raw(name);
        raw.map(|raw| serde_json::from_str(raw.get())).transpose()
    }

    /// The value of a field; the default where it is absent or `null`.
    ///
    /// # Errors
    /// It is of another type.
    pub fn get<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, serde_json::Error> {
        Ok(self.borrowed(name)?.unwrap_or_default())
    }

    /// A map of texts; one that is `null` is empty.
    ///
    /// # Errors
    /// It is no map, or has a value that is no text.
    pub fn metadata(&self, name: &str) -> Result<BTreeMap<String, String>, serde_json::Error> {
        let metadata: BTreeMap<String, Option<String>> = self.get(name)?;
        let texts = metadata.into_iter();
        Ok(texts
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Fields::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_any(Object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_in_any_case_and_nulls() {
        let body = r#"{"KEY":"a","key":"b","etag":null,"metadata":{"x":null,"y":"1"},"n\u0061me":"c","list":[1]}"#;
        let fields: Fields<'_> = serde_json::from_str(body).expect("an object");
        let text = |name: &str| fields.get::<String>(name).expect("text");
        assert_eq!(
            (text("Key"), text("name")),
            ("b".to_owned(), "c".to_owned())
        );
        assert_eq!(
            (text("etag"), text("absent")),
            (String::new(), String::new())
        );
        assert!(fields.raw("etag").is_none());
        let expected =
            [("x", ""), ("y", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = fields.metadata("metadata").expect("a map");
        assert_eq!(metadata, BTreeMap::from(expected));
        fields.get::<String>("list").expect_err("a list is no text");
    }

    #[test]
    fn only_objects_and_null() {
        let check = |body: &str, expected: bool| {
            let fields = serde_json::from_str::<Fields<'_>>(body);
            assert_eq!(fields.is_ok(), expected, "{body}");
        };
        check("null", true);
        check("{}", true);
        check("[]", false);
        check("1", false);
        check(r#"{"a":}"#, false);
        check("", false);
    }

    proptest! {
        #[test]
        fn never_panics(body in r#"[{}\[\]",:a-cA-C0-9nul\\ ]{0,40}"#) {
            if let Ok(fields) = serde_json::from_str::<Fields<'_>>(&body) {
                drop(fields.get::<String>("a"));
                drop(fields.metadata("b"));
            }
        }
    }
}
