//! The kinds of resources the operator serves: what of an object is content, and where it refers to secrets.
//!
//! How values are put there stands in `secrets.rs`; how objects get to sidecars in `hub.rs`.

use dapr_crds::configuration::OtelHeader;
use dapr_crds::http_endpoint::TlsDocument;
use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{
    Component, Configuration, DynamicValue, HttpEndpoint, McpServer, NameValuePair, Resiliency,
    SecretKeyRef, WorkflowAccessPolicy,
};

/// A kind of resource.
pub trait Kind: dapr_crds::meta::Object + dapr_kubernetes::Object {
    /// What lists of it do, as error texts say it.
    const LISTING: &'static str;
    /// Whether an installation may lack its CRD: then there are simply no objects.
    const IS_OPTIONAL: bool = false;
    /// How values of secrets are written into it.
    const FORM: Form = Form::Base64(Missing::Keep);

    /// Whether sidecars would do the same with both. Labels, versions and the like are not compared.
    fn is_same(&self, other: &Self) -> bool;

    /// The places for values of Kubernetes Secrets; none where another store resolves them.
    fn slots(&mut self) -> Vec<Slot<'_>> {
        Vec::new()
    }

    /// What stands before the reason when a secret cannot be put in.
    fn secret_context(&self) -> String {
        String::new()
    }
}

/// How the value of a secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In base64, which the sidecar decodes.
    Base64(Missing),
    /// As it is; key and value have to be there.
    Plain,
}

/// What becomes of a value when the secret lacks the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It stays as it was.
    Keep,
    /// It is taken out.
    Clear,
}

/// A place for the value of a secret.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Name of the pair.
    pub name: &'a str,
    /// Where the value is.
    pub reference: &'a SecretKeyRef,
    /// Where it belongs.
    pub value: &'a mut DynamicValue,
}

impl<'a> Slot<'a> {
    fn of_pair(pair: &'a mut NameValuePair) -> Option<Self> {
        pair.secret_key_ref.is_set().then_some(Slot {
            name: &pair.name,
            reference: &pair.secret_key_ref,
            value: &mut pair.value,
        })
    }

    fn of_document(name: &'a str, document: &'a mut Option<TlsDocument>) -> Option<Self> {
        let TlsDocument {
            value,
            secret_key_ref,
        } = document.as_mut()?;
        let reference = secret_key_ref.as_ref().filter(|it| it.is_set())?;
        Some(Slot {
            name,
            reference,
            value,
        })
    }
}

impl Kind for Component {
    const LISTING: &'static str = "getting components";

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.auth == other.auth && self.scopes == other.scopes
    }

    fn slots(&mut self) -> Vec<Slot<'_>> {
        if !self.auth.is_kubernetes() {
            return Vec::new();
        }
        let pairs = self.spec.metadata.iter_mut();
        pairs.filter_map(Slot::of_pair).collect()
    }
}

impl Kind for HttpEndpoint {
    const LISTING: &'static str = "listing http endpoints";
    const FORM: Form = Form::Base64(Missing::Clear);

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.auth == other.auth && self.scopes == other.scopes
    }

    fn slots(&mut self) -> Vec<Slot<'_>> {
        if !self.auth.is_kubernetes() {
            return Vec::new();
        }
        let headers = self.spec.headers.iter_mut().filter_map(Slot::of_pair);
        let mut slots: Vec<_> = headers.collect();
        if let Some(tls) = &mut self.spec.client_tls {
            slots.extend(Slot::of_document("certificate", &mut tls.certificate));
            slots.extend(Slot::of_document("privateKey", &mut tls.private_key));
            slots.extend(Slot::of_document("rootCA", &mut tls.root_ca));
        }
        slots
    }
}

impl Kind for McpServer {
    const LISTING: &'static str = "listing MCP servers";
    const IS_OPTIONAL: bool = true;
    const FORM: Form = Form::Base64(Missing::Clear);

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.scopes == other.scopes
    }

    fn slots(&mut self) -> Vec<Slot<'_>> {
        let endpoint = &mut self.spec.endpoint;
        let transport = endpoint.streamable_http.as_mut().or(endpoint.sse.as_mut());
        match (transport, &mut endpoint.stdio) {
            (Some(transport), _) => {
                let store = transport.auth.as_ref().map(|auth| &*auth.secret_store);
                if !matches!(store, None | Some("" | "kubernetes")) {
                    return Vec::new();
                }
                let headers = transport.headers.iter_mut();
                headers.filter_map(Slot::of_pair).collect()
            }
            (None, Some(stdio)) => stdio.env.iter_mut().filter_map(Slot::of_pair).collect(),
            (None, None) => Vec::new(),
        }
    }

    fn secret_context(&self) -> String {
        let endpoint = &self.spec.endpoint;
        let place = match (&endpoint.streamable_http, &endpoint.sse) {
            (Some(_), _) => "streamableHTTP header",
            (None, Some(_)) => "sse header",
            (None, None) => "stdio env",
        };
        let name = self.metadata.name.as_deref().unwrap_or_default();
        format!("error resolving {place} secret for MCPServer {name:?}: ")
    }
}

impl Kind for Configuration {
    const LISTING: &'static str = "listing configurations";
    const FORM: Form = Form::Plain;

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    fn slots(&mut self) -> Vec<Slot<'_>> {
        let tracing = self.spec.tracing.as_mut();
        let Some(otel) = tracing.and_then(|tracing| tracing.otel.as_mut()) else {
            return Vec::new();
        };
        let pairs = otel.headers.iter_mut().filter_map(|header| match header {
            OtelHeader::Pair(pair) => Some(pair),
            OtelHeader::Text(_) => None,
        });
        pairs.filter_map(Slot::of_pair).collect()
    }

    fn secret_context(&self) -> String {
        "error processing configuration secrets: ".to_owned()
    }
}

impl Kind for Subscription {
    const LISTING: &'static str = "getting subscriptions";

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.scopes == other.scopes
    }
}

impl Kind for Resiliency {
    const LISTING: &'static str = "listing resiliencies";

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.scopes == other.scopes
    }
}

impl Kind for WorkflowAccessPolicy {
    const LISTING: &'static str = "listing workflow access policies";
    const IS_OPTIONAL: bool = true;

    fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.scopes == other.scopes
    }
}
