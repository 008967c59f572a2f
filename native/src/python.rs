//! The Python module: classes around what the other files parse and write.
//!
//! Attributes read on the warm path are ready-made objects: `#[pyo3(get)]` of a `Py<T>` in a frozen class becomes a
//! plain member, which the interpreter reads without a call.

use crate::chunk::Chunks;
use crate::emit::{self, Changes, Forwarding, Onward};
use crate::fields::{self, RequestFields, ResponseFields};
use crate::head::{self, Field, Kind, Request, Response};
use crate::text::Fault;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyInt, PyList, PySequence, PyString, PyTuple};

impl From<Fault> for PyErr {
    #[cold]
    fn from(Fault(status, message): Fault) -> PyErr {
        PyValueError::new_err((status, message))
    }
}

fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    if bytes.is_ascii() {
        if let Ok(text) = PyString::from_bytes(py, bytes) {
            return text;
        }
    }
    PyString::new(py, &bytes.iter().map(|&b| b as char).collect::<String>())
}

fn boolean(py: Python<'_>, value: bool) -> Py<PyBool> {
    PyBool::new(py, value).to_owned().unbind()
}

fn integer(py: Python<'_>, value: i64) -> Py<PyInt> {
    PyInt::new(py, value).unbind()
}

fn maybe_text(py: Python<'_>, bytes: Option<&[u8]>) -> Py<PyAny> {
    bytes.map_or_else(|| py.None(), |bytes| latin1(py, bytes).into_any().unbind())
}

/// The bytes a head was read from, kept for as long as the head lives: what arrived (and where the head begins in it),
/// or a copy of the head if most of what arrived is something else, or what was made of fields.
enum Kept {
    Arrived(Py<PyBytes>, usize),
    Made(Vec<u8>),
}

impl Kept {
    fn new(data: &Bound<'_, PyBytes>, start: usize, size: usize) -> Kept {
        let all = data.as_bytes();
        if all.len() <= 2 * (start + size) + 1024 {
            return Kept::Arrived(data.clone().unbind(), start);
        }
        Kept::Made(all[start..start + size].to_vec())
    }

    fn raw<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Kept::Arrived(bytes, start) => &bytes.as_bytes(py)[*start..],
            Kept::Made(bytes) => bytes,
        }
    }
}

fn get<'py>(py: Python<'py>, raw: &[u8], fields: &[Field], name: &[u8]) -> Option<Bound<'py, PyBytes>> {
    let is = |field: &&Field| {
        let own = field.name(raw);
        own.len() == name.len() && own.iter().zip(name).all(|(a, b)| a.to_ascii_lowercase() == *b)
    };
    let mut found = fields.iter().filter(is);
    let first = found.next()?;
    let mut rest = found.peekable();
    if rest.peek().is_none() {
        return Some(PyBytes::new(py, first.value(raw)));
    }
    let separator: &[u8] = if first.kind == Kind::Cookie { b"; " } else { b", " };
    let mut joined = first.value(raw).to_vec();
    for field in rest {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(field.value(raw));
    }
    Some(PyBytes::new(py, &joined))
}

fn pairs<'py>(py: Python<'py>, raw: &[u8], fields: &[Field]) -> PyResult<Bound<'py, PyList>> {
    let pair = |field: &Field| (PyBytes::new(py, field.name(raw)), PyBytes::new(py, field.value(raw)));
    PyList::new(py, fields.iter().map(pair))
}

/// Hands the fields of a message of HTTP/2 to `take`, one by one.
fn each_pair(pairs: &Bound<'_, PyAny>, mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Fault>) -> PyResult<()> {
    let list = match pairs.cast::<PyList>() {
        Ok(list) => list.clone(),
        Err(_) => pairs.cast::<PySequence>()?.to_list()?,
    };
    for pair in &list {
        let pair = pair.cast::<PyTuple>()?;
        if pair.len() != 2 {
            return Err(PyTypeError::new_err("pairs of name and value expected"));
        }
        let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
        take(name.cast::<PyBytes>()?.as_bytes(), value.cast::<PyBytes>()?.as_bytes())?;
    }
    Ok(())
}

fn append(list: &Bound<'_, PyList>, name: &[u8], value: &[u8]) -> PyResult<()> {
    list.append((PyBytes::new(list.py(), name), PyBytes::new(list.py(), value)))
}

/// The fields of `head` behind those in `list`, save those of `without`.
fn extend(list: &Bound<'_, PyList>, mut head: Vec<u8>, without: Option<Kind>) -> PyResult<()> {
    let mut done = Ok(());
    emit::each_field(&mut head, |name, value| {
        if done.is_ok() && without.is_none_or(|kind| Kind::of(name) != kind) {
            done = append(list, name, value);
        }
    });
    done
}

// ---- what is set once per connection and once per route ---------------------------------------------------------

const NOTHING: &[u8] = b"";

#[pyclass(frozen, module = "edgeproxy.codec._native")]
struct Forward(Forwarding);

#[pymethods]
impl Forward {
    #[new]
    #[pyo3(signature = (peer, proto, port, trusted, client_cert=NOTHING))]
    fn new(peer: &[u8], proto: &[u8], port: &[u8], trusted: bool, client_cert: &[u8]) -> PyResult<Forward> {
        Ok(Forward(Forwarding::new(peer, proto, port, trusted, client_cert)?))
    }

    #[getter]
    fn trusted(&self) -> bool {
        self.0.trusted
    }
}

#[pyclass(frozen, module = "edgeproxy.codec._native")]
struct Edits(Changes);

#[pymethods]
impl Edits {
    #[new]
    fn new(set: Vec<(Vec<u8>, Vec<u8>)>, add: Vec<(Vec<u8>, Vec<u8>)>, remove: Vec<Vec<u8>>) -> PyResult<Edits> {
        fn borrowed(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(&[u8], &[u8])> {
            pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect()
        }
        let names: Vec<&[u8]> = remove.iter().map(|name| &name[..]).collect();
        Ok(Edits(Changes::new(&borrowed(&set), &borrowed(&add), &names)?))
    }
}

// ---- requests ---------------------------------------------------------------------------------------------------

#[pyclass(frozen, module = "edgeproxy.codec._native")]
struct RequestHead {
    kept: Kept,
    head: Request,
    #[pyo3(get)]
    method: Py<PyString>,
    #[pyo3(get)]
    path: Py<PyString>,
    #[pyo3(get)]
    host: Py<PyString>,
    #[pyo3(get)]
    major: Py<PyInt>,
    #[pyo3(get)]
    minor: Py<PyInt>,
    #[pyo3(get)]
    length: Py<PyInt>,
    #[pyo3(get)]
    keep_alive: Py<PyBool>,
    #[pyo3(get)]
    expect: Py<PyBool>,
    #[pyo3(get)]
    upgrade: Py<PyAny>,
    #[pyo3(get)]
    size: Py<PyInt>,
}

fn method_name(py: Python<'_>, method: &[u8]) -> Py<PyString> {
    let known = match method {
        b"GET" => intern!(py, "GET"),
        b"HEAD" => intern!(py, "HEAD"),
        b"POST" => intern!(py, "POST"),
        b"PUT" => intern!(py, "PUT"),
        b"DELETE" => intern!(py, "DELETE"),
        b"PATCH" => intern!(py, "PATCH"),
        b"OPTIONS" => intern!(py, "OPTIONS"),
        other => return latin1(py, other).unbind(),
    };
    known.clone().unbind()
}

#[pyfunction]
fn parse_request<'py>(
    data: &Bound<'py, PyBytes>,
    max_head: usize,
    max_fields: usize,
) -> PyResult<Option<Bound<'py, RequestHead>>> {
    let py = data.py();
    let all = data.as_bytes();
    let start = head::skip_blank(all)?;
    let raw = &all[start..];
    let Some(head) = head::parse_request(raw, max_head, max_fields)? else {
        return Ok(None);
    };
    RequestHead::build(py, Kept::new(data, start, head.size), head, start).map(Some)
}

#[pyfunction]
fn request_from_fields<'py>(
    fields: &Bound<'py, PyAny>,
    ended: bool,
    max_head: usize,
    max_fields: usize,
) -> PyResult<Bound<'py, RequestHead>> {
    let mut request = RequestFields::new(max_head, max_fields);
    each_pair(fields, |name, value| request.push(name, value))?;
    let (raw, head) = request.finish(ended)?;
    RequestHead::build(fields.py(), Kept::Made(raw), head, 0)
}

impl RequestHead {
    /// `before`: bytes that were passed over.
    fn build(py: Python<'_>, kept: Kept, head: Request, before: usize) -> PyResult<Bound<'_, RequestHead>> {
        let raw = kept.raw(py);
        let text = |(from, to): (u32, u32)| &raw[from as usize..to as usize];
        let path = match &head.normal {
            Some(normal) => latin1(py, normal),
            None => latin1(py, &head.target.bytes(raw)[..head.path_end as usize]),
        };
        let host = text(head.host);
        let host = if host.iter().any(u8::is_ascii_uppercase) {
            latin1(py, &host.to_ascii_lowercase())
        } else {
            latin1(py, host)
        };
        let value = RequestHead {
            method: method_name(py, text(head.method)),
            path: path.unbind(),
            host: host.unbind(),
            major: integer(py, i64::from(head.major)),
            minor: integer(py, i64::from(head.minor)),
            length: integer(py, head.length()),
            keep_alive: boolean(py, head.meaning.keep_alive),
            expect: boolean(py, head.meaning.expect),
            upgrade: maybe_text(py, head.meaning.upgrade.as_deref()),
            size: integer(py, (before + head.size) as i64),
            kept,
            head,
        };
        Bound::new(py, value)
    }
}

#[pymethods]
impl RequestHead {
    #[getter]
    fn target<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        latin1(py, self.head.target.bytes(self.kept.raw(py)))
    }

    #[getter]
    fn query<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let target = self.head.target.bytes(self.kept.raw(py));
        match target.get(self.head.path_end as usize + 1..) {
            Some(query) => latin1(py, query),
            None => intern!(py, "").clone(),
        }
    }

    #[getter]
    fn authority<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let (from, to) = self.head.authority;
        latin1(py, &self.kept.raw(py)[from as usize..to as usize])
    }

    fn get<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyBytes>> {
        get(py, self.kept.raw(py), &self.head.fields, name)
    }

    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        pairs(py, self.kept.raw(py), &self.head.fields)
    }

    fn log_fields(&self, py: Python<'_>) -> String {
        let raw = self.kept.raw(py);
        emit::log_fields(&self.head, raw, &raw[self.head.host.0 as usize..self.head.host.1 as usize])
    }

    fn outbound<'py>(
        &self,
        py: Python<'py>,
        forward: &Bound<'py, Forward>,
        request_id: &[u8],
        target: Option<&[u8]>,
        host: Option<&[u8]>,
        edits: Option<&Bound<'py, Edits>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let edits = edits.map(|edits| &edits.get().0);
        let to = Onward { forwarding: &forward.get().0, request_id, target, host, edits };
        Ok(PyBytes::new(py, &emit::outbound(&self.head, self.kept.raw(py), &to)?))
    }

    #[allow(clippy::too_many_arguments)] // those of outbound, and the scheme
    fn outbound_fields<'py>(
        &self,
        py: Python<'py>,
        forward: &Bound<'py, Forward>,
        request_id: &[u8],
        target: Option<&[u8]>,
        host: Option<&[u8]>,
        edits: Option<&Bound<'py, Edits>>,
        scheme: &[u8],
    ) -> PyResult<Bound<'py, PyList>> {
        let edits = edits.map(|edits| &edits.get().0);
        let raw = self.kept.raw(py);
        let to = Onward { forwarding: &forward.get().0, request_id, target, host, edits };
        let head = emit::outbound(&self.head, raw, &to)?;
        let text = |(from, to): (u32, u32)| &raw[from as usize..to as usize];
        let list = PyList::empty(py);
        append(&list, b":method", text(self.head.method))?;
        append(&list, b":scheme", scheme)?;
        let authority = host.unwrap_or_else(|| text(self.head.authority));
        if !authority.is_empty() {
            append(&list, b":authority", authority)?;
        }
        append(&list, b":path", target.unwrap_or_else(|| self.head.target.bytes(raw)))?;
        extend(&list, head, None)?;
        Ok(list)
    }
}

// ---- responses --------------------------------------------------------------------------------------------------

#[pyclass(frozen, module = "edgeproxy.codec._native")]
struct ResponseHead {
    kept: Kept,
    head: Response,
    #[pyo3(get)]
    status: Py<PyInt>,
    #[pyo3(get)]
    minor: Py<PyInt>,
    #[pyo3(get)]
    length: Py<PyInt>,
    #[pyo3(get)]
    keep_alive: Py<PyBool>,
    #[pyo3(get)]
    upgrade: Py<PyAny>,
    #[pyo3(get)]
    size: Py<PyInt>,
}

#[pyfunction]
fn parse_response<'py>(
    data: &Bound<'py, PyBytes>,
    head_request: bool,
    max_head: usize,
    max_fields: usize,
) -> PyResult<Option<Bound<'py, ResponseHead>>> {
    let py = data.py();
    let Some(head) = head::parse_response(data.as_bytes(), head_request, max_head, max_fields)? else {
        return Ok(None);
    };
    ResponseHead::build(py, Kept::new(data, 0, head.size), head).map(Some)
}

#[pyfunction]
fn response_from_fields<'py>(
    fields: &Bound<'py, PyAny>,
    head_request: bool,
    ended: bool,
    max_head: usize,
    max_fields: usize,
) -> PyResult<Bound<'py, ResponseHead>> {
    let mut response = ResponseFields::new(max_head, max_fields);
    each_pair(fields, |name, value| response.push(name, value))?;
    let (raw, head) = response.finish(head_request, ended)?;
    ResponseHead::build(fields.py(), Kept::Made(raw), head)
}

impl ResponseHead {
    fn build(py: Python<'_>, kept: Kept, head: Response) -> PyResult<Bound<'_, ResponseHead>> {
        let value = ResponseHead {
            status: integer(py, i64::from(head.status)),
            minor: integer(py, i64::from(head.minor)),
            length: integer(py, head.length),
            keep_alive: boolean(py, head.meaning.keep_alive),
            upgrade: maybe_text(py, head.meaning.upgrade.as_deref()),
            size: integer(py, head.size as i64),
            kept,
            head,
        };
        Bound::new(py, value)
    }
}

#[pymethods]
impl ResponseHead {
    #[getter]
    fn reason<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let (from, to) = self.head.reason;
        latin1(py, &self.kept.raw(py)[from as usize..to as usize])
    }

    fn get<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyBytes>> {
        get(py, self.kept.raw(py), &self.head.fields, name)
    }

    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        pairs(py, self.kept.raw(py), &self.head.fields)
    }

    fn inbound<'py>(
        &self,
        py: Python<'py>,
        client_minor: u8,
        close: bool,
        edits: Option<&Bound<'py, Edits>>,
    ) -> Bound<'py, PyBytes> {
        let edits = edits.map(|edits| &edits.get().0);
        PyBytes::new(py, &emit::inbound(&self.head, self.kept.raw(py), client_minor, close, edits))
    }

    fn inbound_fields<'py>(&self, py: Python<'py>, edits: Option<&Bound<'py, Edits>>) -> PyResult<Bound<'py, PyList>> {
        let edits = edits.map(|edits| &edits.get().0);
        let list = PyList::empty(py);
        append(&list, b":status", self.head.status.to_string().as_bytes())?;
        let head = emit::inbound(&self.head, self.kept.raw(py), 1, false, edits);
        extend(&list, head, self.head.empty.then_some(Kind::ContentLength))?;
        Ok(list)
    }
}

// ---- trailers of HTTP/2 -----------------------------------------------------------------------------------------

#[pyfunction]
fn trailers_from_fields<'py>(fields: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut lines = Vec::new();
    each_pair(fields, |name, value| fields::put_trailer(&mut lines, name, value))?;
    Ok(PyBytes::new(fields.py(), &lines))
}

#[pyfunction]
fn trailer_fields<'py>(py: Python<'py>, lines: &[u8]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for (name, value) in fields::trailer_pairs(lines)? {
        append(&list, &name, value)?;
    }
    Ok(list)
}

#[pyfunction]
fn find_head_end(data: &Bound<'_, PyAny>, start: usize) -> PyResult<isize> {
    let found = if let Ok(bytes) = data.cast::<PyBytes>() {
        head::find_head_end(bytes.as_bytes(), start)
    } else if let Ok(array) = data.cast::<PyByteArray>() {
        // SAFETY: the interpreter is held and no Python code runs until the slice is gone, so nobody can resize the
        // array. The safe way copies it all, and a head in many small pieces would cost its length squared.
        head::find_head_end(unsafe { array.as_bytes() }, start)
    } else {
        return Err(PyTypeError::new_err("bytes or bytearray expected"));
    }?;
    Ok(found.map_or(-1, |end| end as isize))
}

// ---- chunked bodies ---------------------------------------------------------------------------------------------

#[pyclass(module = "edgeproxy.codec._native")]
struct ChunkDecoder {
    chunks: Chunks,
    #[pyo3(get)]
    consumed: usize,
}

#[pymethods]
impl ChunkDecoder {
    #[new]
    fn new(max_trailer: usize) -> ChunkDecoder {
        ChunkDecoder { chunks: Chunks::new(max_trailer), consumed: 0 }
    }

    #[getter]
    fn done(&self) -> bool {
        self.chunks.done()
    }

    #[getter]
    fn trailers<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.chunks.trailers)
    }

    fn feed<'py>(&mut self, data: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = data.as_bytes();
        if self.chunks.take_whole(bytes) {
            self.consumed = bytes.len();
            return Ok(data.clone());
        }
        let (mut first, mut all): (&[u8], Vec<u8>) = (b"", Vec::new());
        self.consumed = self.chunks.feed(bytes, |part| {
            if first.is_empty() {
                first = part;
            } else {
                if all.is_empty() {
                    all.reserve(bytes.len());
                    all.extend_from_slice(first);
                }
                all.extend_from_slice(part);
            }
        })?;
        Ok(PyBytes::new(data.py(), if all.is_empty() { first } else { &all }))
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Forward>()?;
    module.add_class::<Edits>()?;
    module.add_class::<RequestHead>()?;
    module.add_class::<ResponseHead>()?;
    module.add_class::<ChunkDecoder>()?;
    module.add_function(wrap_pyfunction!(parse_request, module)?)?;
    module.add_function(wrap_pyfunction!(parse_response, module)?)?;
    module.add_function(wrap_pyfunction!(request_from_fields, module)?)?;
    module.add_function(wrap_pyfunction!(response_from_fields, module)?)?;
    module.add_function(wrap_pyfunction!(trailers_from_fields, module)?)?;
    module.add_function(wrap_pyfunction!(trailer_fields, module)?)?;
    module.add_function(wrap_pyfunction!(find_head_end, module)?)?;
    module.add(
        "__all__",
        PyTuple::new(
            module.py(),
            [
                "ChunkDecoder",
                "Edits",
                "Forward",
                "RequestHead",
                "ResponseHead",
                "find_head_end",
                "parse_request",
                "parse_response",
                "request_from_fields",
                "response_from_fields",
                "trailer_fields",
                "trailers_from_fields",
            ],
        )?,
    )
}
