//! The names that things had in Python 2. Protocols before 3 use them, whoever writes: there Python 3's `int` is called `long`.

/// Modules that have another name now.
const MODULES: &[(&str, &str)] = &[
    ("__builtin__", "builtins"),
    ("copy_reg", "copyreg"),
    ("exceptions", "builtins"),
    ("Queue", "queue"),
    ("ConfigParser", "configparser"),
    ("repr", "reprlib"),
    ("thread", "_thread"),
    ("cPickle", "pickle"),
    ("StringIO", "io"),
    ("cStringIO", "io"),
    ("UserDict", "collections"),
    ("UserList", "collections"),
    ("UserString", "collections"),
    ("_abcoll", "collections.abc"),
    ("_elementtree", "xml.etree.ElementTree"),
    ("commands", "subprocess"),
    ("SocketServer", "socketserver"),
    ("httplib", "http.client"),
    ("Cookie", "http.cookies"),
    ("cookielib", "http.cookiejar"),
    ("BaseHTTPServer", "http.server"),
    ("HTMLParser", "html.parser"),
    ("htmlentitydefs", "html.entities"),
    ("urlparse", "urllib.parse"),
    ("urllib2", "urllib.request"),
    ("robotparser", "urllib.robotparser"),
    ("xmlrpclib", "xmlrpc.client"),
];

/// What has moved on its own: module and name then, and now.
const NAMES: &[([&str; 2], [&str; 2])] = &[
    (["__builtin__", "long"], ["builtins", "int"]),
    (["__builtin__", "unicode"], ["builtins", "str"]),
    (["__builtin__", "basestring"], ["builtins", "str"]),
    (["__builtin__", "unichr"], ["builtins", "chr"]),
    (["__builtin__", "xrange"], ["builtins", "range"]),
    (["__builtin__", "reduce"], ["functools", "reduce"]),
    (["__builtin__", "intern"], ["sys", "intern"]),
    (["itertools", "izip"], ["builtins", "zip"]),
    (["itertools", "imap"], ["builtins", "map"]),
    (["itertools", "ifilter"], ["builtins", "filter"]),
    (["itertools", "ifilterfalse"], ["itertools", "filterfalse"]),
    (["itertools", "izip_longest"], ["itertools", "zip_longest"]),
    (["exceptions", "StandardError"], ["builtins", "Exception"]),
    (["UserDict", "IterableUserDict"], ["collections", "UserDict"]),
    (["multiprocessing", "AuthenticationError"], ["multiprocessing.context", "AuthenticationError"]),
    (["multiprocessing", "BufferTooShort"], ["multiprocessing.context", "BufferTooShort"]),
    (["multiprocessing", "ProcessError"], ["multiprocessing.context", "ProcessError"]),
    (["multiprocessing", "TimeoutError"], ["multiprocessing.context", "TimeoutError"]),
    (["multiprocessing.process", "Process"], ["multiprocessing.context", "Process"]),
    (["urllib", "ContentTooShortError"], ["urllib.error", "ContentTooShortError"]),
    (["urllib", "quote"], ["urllib.parse", "quote"]),
    (["urllib", "unquote"], ["urllib.parse", "unquote"]),
    (["urllib", "urlencode"], ["urllib.parse", "urlencode"]),
    (["urllib", "urlopen"], ["urllib.request", "urlopen"]),
    (["urllib", "urlretrieve"], ["urllib.request", "urlretrieve"]),
    (["urllib2", "HTTPError"], ["urllib.error", "HTTPError"]),
    (["urllib2", "URLError"], ["urllib.error", "URLError"]),
];

/// What Python 3 calls it.
pub(in super::super) fn renamed<'n>(module: &'n str, name: &'n str) -> (&'n str, &'n str) {
    if let Some((_, [module, name])) = NAMES.iter().find(|(old, _)| *old == [module, name]) {
        return (module, name);
    }
    (MODULES.iter().find(|(old, _)| *old == module).map_or(module, |(_, new)| new), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_python_3() {
        assert_eq!(renamed("__builtin__", "long"), ("builtins", "int"));
        assert_eq!(renamed("__builtin__", "set"), ("builtins", "set"));
        assert_eq!(renamed("exceptions", "ValueError"), ("builtins", "ValueError"));
        assert_eq!(renamed("torch", "FloatStorage"), ("torch", "FloatStorage"));
    }
}
