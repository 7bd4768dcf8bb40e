//! The address of an app's Service. Pure.

use dapr_components_core::name_resolution::ResolveRequest;

/// A template that cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "nameResolution.configuration.template: {{{{{0}}}}} is not supported: use {{{{.ID}}}}, {{{{.Namespace}}}} and {{{{.Port}}}}"
)]
pub(super) struct Unsupported(String);

/// Text with places for the parts of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Id,
    Namespace,
    Port,
}

impl Template {
    /// `<id>-dapr.<namespace>.svc.<domain>:<port>`. The dot behind it makes the name a whole one: without it, the
    /// system tries every domain of its search list first.
    pub(super) fn of_services(domain: &str) -> Self {
        Self(vec![
            Piece::Id,
            Piece::Text("-dapr.".to_owned()),
            Piece::Namespace,
            Piece::Text(format!(".svc.{domain}.:")),
            Piece::Port,
        ])
    }

    /// Reads the part of Go's templates that makes sense here.
    pub(super) fn parse(text: &str) -> Result<Self, Unsupported> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            pieces.push(Piece::Text(before.to_owned()));
            let Some((action, after)) = behind.split_once("}}") else {
                return Err(Unsupported(behind.to_owned()));
            };
            pieces.push(match action.trim_matches('-').trim() {
                ".ID" => Piece::Id,
                ".Namespace" => Piece::Namespace,
                ".Port" => Piece::Port,
                _ => return Err(Unsupported(action.to_owned())),
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// `host:port` of a request.
    pub(super) fn fill(&self, request: &ResolveRequest) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Id => text.push_str(&request.app_id),
                Piece::Namespace => text.push_str(&request.namespace),
                Piece::Port => text.push_str(&request.port.to_string()),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> ResolveRequest {
        ResolveRequest {
            app_id: "orders".to_owned(),
            namespace: "prod".to_owned(),
            port: 50002,
        }
    }

    #[test]
    fn services_and_templates() {
        let check = |template: Template, expected: &str| {
            assert_eq!(template.fill(&request()), expected);
        };
        check(
            Template::of_services("cluster.local"),
            "orders-dapr.prod.svc.cluster.local.:50002",
        );
        let parse = |text: &str| Template::parse(text).expect("supported");
        check(
            parse("{{.ID}}.{{ .Namespace }}:{{.Port}}"),
            "orders.prod:50002",
        );
        check(parse("fixed:1"), "fixed:1");
    }

    #[test]
    fn what_go_could_do_more_is_named() {
        let error = Template::parse("{{.Data.zone}}:1").expect_err("unsupported");
        assert_eq!(
            error.to_string(),
            "nameResolution.configuration.template: {{.Data.zone}} is not supported: use {{.ID}}, {{.Namespace}} and {{.Port}}"
        );
        assert!(Template::parse("{{.ID").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                drop(template.fill(&request()));
            }
        }
    }
}
