//! Heads written anew for the other side. No Python in here.

use crate::head::{Field, Kind, Request, Response};
use crate::text::*;
use memchr::memchr;

/// What the proxy tells the endpoint about the client's connection: once per connection.
pub struct Forwarding {
    peer: Vec<u8>,
    proto: Vec<u8>,
    port: Vec<u8>,
    pub trusted: bool,
    client_cert: Vec<u8>,
    /// X-Forwarded-For, -Proto, -Port and -Client-Cert as lines.
    lines: Vec<u8>,
}

/// A route's changes to fields: once per route.
pub struct Changes {
    /// Names in lower case.
    drop: Vec<Vec<u8>>,
    /// Lines to add.
    lines: Vec<u8>,
}

pub fn check_edit(name: &[u8], value: &[u8]) -> Judged<()> {
    if name.is_empty() || !name.iter().all(|&b| is_token(b)) || first_control(value) < value.len() {
        return Err(Fault(500, "cannot be sent as a field"));
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

const FOR: &[u8] = b"X-Forwarded-For";
const PROTO: &[u8] = b"X-Forwarded-Proto";
const PORT: &[u8] = b"X-Forwarded-Port";
const CLIENT_CERT: &[u8] = b"X-Forwarded-Client-Cert";

impl Forwarding {
    pub fn new(peer: &[u8], proto: &[u8], port: &[u8], trusted: bool, client_cert: &[u8]) -> Judged<Forwarding> {
        let mut lines = Vec::new();
        for (name, value) in [(FOR, peer), (PROTO, proto), (PORT, port), (CLIENT_CERT, client_cert)] {
            check_edit(name, value)?;
            if !value.is_empty() {
                put(&mut lines, &[name, b": ", value, b"\r\n"]);
            }
        }
        let [peer, proto, port, client_cert] = [peer, proto, port, client_cert].map(<[u8]>::to_vec);
        Ok(Forwarding { peer, proto, port, trusted, client_cert, lines })
    }
}

impl Changes {
    /// What frames the message or names its target is left alone.
    pub fn new(set: &[(&[u8], &[u8])], add: &[(&[u8], &[u8])], remove: &[&[u8]]) -> Judged<Changes> {
        let mut changes = Changes { drop: Vec::new(), lines: Vec::new() };
        let named = set.iter().map(|(name, _)| name);
        for name in remove {
            check_edit(name, b"")?;
        }
        for (name, value) in set.iter().chain(add) {
            check_edit(name, value)?;
            if !Kind::of(name).never_edited() {
                put(&mut changes.lines, &[name, b": ", trim(value), b"\r\n"]);
            }
        }
        for name in remove.iter().chain(named).filter(|name| !Kind::of(name).never_edited()) {
            changes.drop.push(name.to_ascii_lowercase());
        }
        Ok(changes)
    }

    fn drops(&self, name: &[u8]) -> bool {
        self.drop.iter().any(|dropped| dropped.eq_ignore_ascii_case(name))
    }
}

fn dropped(edits: Option<&Changes>, name: &[u8]) -> bool {
    edits.is_some_and(|edits| edits.drops(name))
}

/// The fields that `keep` names, as `name: value` lines. Neighbours that stand so already are copied in one go.
fn put_fields(out: &mut Vec<u8>, raw: &[u8], fields: &[Field], edits: Option<&Changes>, keep: impl Fn(&Field) -> bool) {
    let mut run = 0..0;
    for field in fields {
        if field.dropped || !keep(field) || dropped(edits, field.name(raw)) {
            continue;
        }
        let (start, end) = (field.start as usize, field.value_end as usize + 2);
        if field.plain && run.end == start {
            run.end = end;
            continue;
        }
        out.extend_from_slice(&raw[run]);
        if field.plain {
            run = start..end;
        } else {
            run = 0..0;
            put(out, &[field.name(raw), b": ", field.value(raw), b"\r\n"]);
        }
    }
    out.extend_from_slice(&raw[run]);
}

pub struct Onward<'a> {
    pub forwarding: &'a Forwarding,
    pub request_id: &'a [u8],
    pub target: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    pub edits: Option<&'a Changes>,
}

/// The whole head for the endpoint.
pub fn outbound(request: &Request, raw: &[u8], to: &Onward) -> Judged<Vec<u8>> {
    let span = |(from, to): (u32, u32)| &raw[from as usize..to as usize];
    if let Some(host) = to.host {
        check_edit(b"Host", host)?;
    }
    if to.target.is_some_and(|target| target.is_empty() || !target.iter().all(|&b| is_target(b))) {
        return Err(Fault(500, "the new target cannot be sent"));
    }
    let mut out = Vec::with_capacity(request.size + 512);
    let target = to.target.unwrap_or_else(|| request.target.bytes(raw));
    put(&mut out, &[span(request.method), b" ", target, b" HTTP/1.1\r\n"]);
    let authority = span(request.authority);
    if !request.meaning.has_host {
        put(&mut out, &[b"Host: ", to.host.unwrap_or(authority), b"\r\n"]);
    }
    let trusted = to.forwarding.trusted;
    let keep = |field: &Field| match field.kind {
        Kind::Other => true,
        Kind::RequestId | Kind::ForwardedFor | Kind::ClientCert => false,
        kind if kind.vouched() => trusted,
        kind => !kind.hop_by_hop(),
    };
    match (to.host, request.fields.iter().position(|field| field.kind == Kind::Host)) {
        (Some(host), Some(at)) => {
            let field = &request.fields[at];
            put_fields(&mut out, raw, &request.fields[..at], to.edits, keep);
            put(&mut out, &[field.name(raw), b": ", host, b"\r\n"]);
            put_fields(&mut out, raw, &request.fields[at + 1..], to.edits, keep);
        }
        _ => put_fields(&mut out, raw, &request.fields, to.edits, keep),
    }
    put_framing(&mut out, request);
    put_forwarded(&mut out, request, raw, to, authority);
    if !dropped(to.edits, b"x-request-id") {
        put(&mut out, &[b"X-Request-Id: ", to.request_id, b"\r\n"]);
    }
    if !dropped(to.edits, b"via") {
        put(&mut out, &[b"Via: ", version(request), b" edgeproxy\r\n"]);
    }
    if let Some(edits) = to.edits {
        out.extend_from_slice(&edits.lines);
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// What the client spoke.
fn version(request: &Request) -> &'static [u8] {
    match (request.major, request.minor) {
        (2, _) => b"2.0",
        (_, 1) => b"1.1",
        _ => b"1.0",
    }
}

fn put_framing(out: &mut Vec<u8>, request: &Request) {
    let meaning = &request.meaning;
    if meaning.chunked {
        put(out, &[b"Transfer-Encoding: chunked\r\n"]);
    } else if let Some(length) = meaning.stated {
        put(out, &[b"Content-Length: "]);
        put_number(out, length as u64);
        put(out, &[b"\r\n"]);
    }
    if let Some(upgrade) = &meaning.upgrade {
        put(out, &[if meaning.te_trailers { b"Connection: Upgrade, TE\r\n" } else { b"Connection: Upgrade\r\n" }]);
        put(out, &[b"Upgrade: ", upgrade, b"\r\n"]);
    } else if meaning.te_trailers {
        put(out, &[b"Connection: TE\r\n"]);
    }
    if meaning.te_trailers {
        put(out, &[b"TE: trailers\r\n"]);
    }
}

fn put_forwarded(out: &mut Vec<u8>, request: &Request, raw: &[u8], to: &Onward, authority: &[u8]) {
    let forwarding = to.forwarding;
    if !forwarding.trusted && to.edits.is_none() {
        out.extend_from_slice(&forwarding.lines);
        if !authority.is_empty() {
            put(out, &[b"X-Forwarded-Host: ", authority, b"\r\n"]);
        }
        return;
    }
    let received = forwarding.trusted && request.meaning.has_forwarded_for;
    if (received || !forwarding.peer.is_empty()) && !dropped(to.edits, FOR) {
        put(out, &[FOR, b": "]);
        let before = request.fields.iter().filter(|field| received && field.kind == Kind::ForwardedFor);
        // as the twin joins them: several values always, the peer only to something
        let from = out.len();
        for (number, field) in before.enumerate() {
            put(out, &[if number > 0 { b", " } else { b"" }, field.value(raw)]);
        }
        let between: &[u8] = if out.len() > from && !forwarding.peer.is_empty() { b", " } else { b"" };
        put(out, &[between, &forwarding.peer, b"\r\n"]);
    }
    let known =
        |kind| forwarding.trusted && kind != Kind::ClientCert && request.fields.iter().any(|field| field.kind == kind);
    for (name, value, kind) in [
        (PROTO, &forwarding.proto[..], Kind::ForwardedProto),
        (PORT, &forwarding.port, Kind::ForwardedPort),
        (CLIENT_CERT, &forwarding.client_cert, Kind::ClientCert),
        (&b"X-Forwarded-Host"[..], authority, Kind::ForwardedHost),
    ] {
        if !value.is_empty() && !known(kind) && !dropped(to.edits, name) {
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
}

/// The whole head for an HTTP/1 client.
pub fn inbound(response: &Response, raw: &[u8], client_minor: u8, close: bool, edits: Option<&Changes>) -> Vec<u8> {
    let mut out = Vec::with_capacity(response.size + 64 + edits.map_or(0, |edits| edits.lines.len()));
    put(&mut out, &[b"HTTP/1.1 "]);
    put_number(&mut out, u64::from(response.status));
    put(&mut out, &[b" ", &raw[response.reason.0 as usize..response.reason.1 as usize], b"\r\n"]);
    let trailer = response.length == -1 && client_minor > 0;
    put_fields(&mut out, raw, &response.fields, edits, |field| match field.kind {
        Kind::Other => true,
        Kind::Trailer => trailer,
        kind => !kind.hop_by_hop(),
    });
    if response.status == 101 {
        if let Some(upgrade) = &response.meaning.upgrade {
            put(&mut out, &[b"Connection: Upgrade\r\nUpgrade: ", upgrade, b"\r\n"]);
        }
    } else if response.status >= 200 {
        put_client_framing(&mut out, response, client_minor, close);
    }
    if let Some(edits) = edits {
        out.extend_from_slice(&edits.lines);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn put_client_framing(out: &mut Vec<u8>, response: &Response, client_minor: u8, mut close: bool) {
    if let Some(length) = response.meaning.stated {
        put(out, &[b"Content-Length: "]);
        put_number(out, length as u64);
        put(out, &[b"\r\n"]);
    } else if response.empty {
        put(out, &[b"Content-Length: 0\r\n"]);
    } else if response.length < 0 {
        if client_minor > 0 {
            put(out, &[b"Transfer-Encoding: chunked\r\n"]);
        } else {
            close = true;
        }
    }
    // 426 has to say which protocol is wanted (RFC 9110 section 15.5.22)
    let offer = response.meaning.upgrade.as_ref().filter(|_| response.status == 426);
    if let Some(offer) = offer {
        put(out, &[b"Upgrade: ", offer, b"\r\n"]);
    }
    let line: &[u8] = match (offer.is_some(), close, client_minor) {
        (false, true, _) => b"Connection: close\r\n",
        (false, false, 0) => b"Connection: keep-alive\r\n",
        (false, false, _) => b"",
        (true, true, _) => b"Connection: Upgrade, close\r\n",
        (true, false, 0) => b"Connection: Upgrade, keep-alive\r\n",
        (true, false, _) => b"Connection: Upgrade\r\n",
    };
    out.extend_from_slice(line);
}

/// The fields of a head that was written for HTTP/1, names in lower case, save those HTTP/2 has no use for.
pub fn each_field(head: &mut [u8], mut take: impl FnMut(&[u8], &[u8])) {
    let mut at = memchr(b'\n', head).map_or(head.len(), |end| end + 1);
    while let Some(colon) = memchr(b':', &head[at..]) {
        let (name, value) = (at..at + colon, at + colon + 2);
        let end = memchr(b'\r', &head[value..]).map_or(head.len(), |length| value + length);
        at = end + 2;
        head[name.clone()].make_ascii_lowercase();
        let name = &head[name];
        if !matches!(Kind::of(name), Kind::Host | Kind::Connection | Kind::TransferEncoding | Kind::Upgrade) {
            take(name, &head[value..end]);
        }
    }
}

/// The inside of a JSON object; control bytes and those above 0x7e as \u00xx (HTAB as \t).
pub fn log_fields(request: &Request, raw: &[u8], host: &[u8]) -> String {
    let mut out = String::with_capacity(320);
    out.push_str("\"method\":\"");
    quote(&mut out, &raw[request.method.0 as usize..request.method.1 as usize]);
    if !host.is_empty() {
        out.push_str("\",\"host\":\"");
        host.iter().for_each(|b| out.push(b.to_ascii_lowercase() as char));
    }
    out.push_str("\",\"path\":\"");
    quote(&mut out, request.target.bytes(raw));
    out.push_str(match (request.major, request.minor) {
        (2, _) => "\",\"protocol\":\"HTTP/2.0\"",
        (_, 1) => "\",\"protocol\":\"HTTP/1.1\"",
        _ => "\",\"protocol\":\"HTTP/1.0\"",
    });
    for (kind, key) in [(Kind::UserAgent, ",\"user_agent\":\""), (Kind::Referer, ",\"referer\":\"")] {
        let mut before = key;
        for field in request.fields.iter().filter(|field| field.kind == kind) {
            out.push_str(before);
            quote(&mut out, field.value(raw));
            before = ", ";
        }
        if before == ", " {
            out.push('"');
        }
    }
    out
}

fn quote(out: &mut String, bytes: &[u8]) {
    use std::fmt::Write;
    for part in bytes.split_inclusive(|&b| !(0x20..0x7f).contains(&b) || b == b'"' || b == b'\\') {
        let (plain, last) = part.split_at(part.len() - 1);
        out.push_str(std::str::from_utf8(plain).unwrap_or_default());
        match last.first() {
            Some(b'\t') => out.push_str("\\t"),
            Some(b'"') => out.push_str("\\\""),
            Some(b'\\') => out.push_str("\\\\"),
            Some(&b) if (0x20..0x7f).contains(&b) => out.push(b as char),
            Some(&b) => {
                let _ = write!(out, "\\u{b:04x}");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{parse_request, parse_response};

    fn forwarded(raw: &[u8], trusted: bool, edits: Option<&Changes>) -> String {
        let request = parse_request(raw, 9999, 99).unwrap().unwrap();
        let forwarding = Forwarding::new(b"192.0.2.1", b"http", b"80", trusted, b"").unwrap();
        let to = Onward { forwarding: &forwarding, request_id: b"ID", target: None, host: None, edits };
        String::from_utf8(outbound(&request, raw, &to).unwrap()).unwrap()
    }

    const RAW: &[u8] =
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1\r\nAccept:a\r\nConnection: x-b\r\nX-B: 1\r\nX-C: 1\r\n\r\n";

    #[test]
    fn to_the_endpoint() {
        assert_eq!(forwarded(RAW, false, None),
                   "GET / HTTP/1.1\r\nHost: x\r\nAccept: a\r\nX-C: 1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
                    X-Forwarded-Port: 80\r\nX-Forwarded-Host: x\r\nX-Request-Id: ID\r\nVia: 1.1 edgeproxy\r\n\r\n");
        assert!(forwarded(RAW, true, None).contains("X-Forwarded-For: 1, 192.0.2.1\r\n"));
    }

    #[test]
    fn edits() {
        let edits = Changes::new(&[(b"X-C", b" 2")], &[(b"X-D", b"3")], &[b"accept", b"via", b"host"]).unwrap();
        let head = forwarded(RAW, false, Some(&edits));
        assert!(head.ends_with("X-Request-Id: ID\r\nX-C: 2\r\nX-D: 3\r\n\r\n") && head.contains("Host: x"));
        assert!(!head.contains("Accept") && !head.contains("X-C: 1") && !head.contains("Via"));
        assert!(Changes::new(&[(b"X", b"a\r\nb")], &[], &[]).is_err());
    }

    #[test]
    fn to_the_client() {
        let raw = b"HTTP/1.0 200 Fine\r\nServer: s\r\nKeep-Alive: 5\r\n\r\n";
        let response = parse_response(raw, false, 9999, 99).unwrap().unwrap();
        let head = |minor| String::from_utf8(inbound(&response, raw, minor, false, None)).unwrap();
        assert_eq!(head(1), "HTTP/1.1 200 Fine\r\nServer: s\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(head(0), "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn log_lines_are_escaped() {
        let raw = b"GET /\"\xe9 HTTP/1.1\r\nHost: X\r\nUser-Agent: a\tb\\\r\n\r\n";
        let request = parse_request(raw, 9999, 99).unwrap().unwrap();
        assert_eq!(
            log_fields(&request, raw, b"X"),
            r#""method":"GET","host":"x","path":"/\"\u00e9","protocol":"HTTP/1.1","user_agent":"a\tb\\""#
        );
    }
}
