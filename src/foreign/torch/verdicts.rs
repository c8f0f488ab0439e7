//! The names that pickles are known to hold, and what to think of each.
//!
//! Facts about Python's library, NumPy and PyTorch. The list cannot be complete: what is on neither side is unknown, and only a name that is
//! safe is a promise.

use super::accepted;

/// What to think of a name that a pickle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Plain data: what `torch.load` allows by default (`weights_only=True`), or what Dolmen understands.
    Safe,
    /// Nothing is known of it. Loading the file with Python imports its module, and may run whatever that does.
    Unknown,
    /// It runs code, or reaches what does: commands, files, the network, other pickles, attributes of anything.
    Dangerous,
}

impl Verdict {
    /// The name, as in JSON: `safe`, `unknown` or `dangerous`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Safe => "safe",
            Verdict::Unknown => "unknown",
            Verdict::Dangerous => "dangerous",
        }
    }
}

/// Modules, and the names in each of them that are plain data; besides those that PyTorch accepts by default.
const SAFE: &[(&[&str], &[&str])] = &[
    (&["collections"], &["defaultdict", "deque"]),
    (
        &["builtins", "__builtin__"],
        &[
            "frozenset",
            "bytes",
            "list",
            "tuple",
            "dict",
            "int",
            "long",
            "float",
            "bool",
            "str",
            "unicode",
            "object",
            "slice",
            "range",
            "xrange",
            "Ellipsis",
            "NotImplemented",
        ],
    ),
    (&["copyreg", "copy_reg"], &["_reconstructor", "__newobj__", "__newobj_ex__"]),
    (&["datetime"], &["datetime", "date", "time", "timedelta", "timezone"]),
    (
        &["pathlib", "pathlib._local"],
        &["Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"],
    ),
    (&["argparse"], &["Namespace"]),
    (&["types"], &["SimpleNamespace"]),
    (&["decimal", "_decimal"], &["Decimal"]),
    (&["fractions"], &["Fraction"]),
    (&["uuid"], &["UUID"]),
    (&["io", "_io"], &["BytesIO", "StringIO"]),
    (
        &["numpy"],
        &[
            "ndarray",
            "dtype",
            "bool",
            "bool_",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
            "longdouble",
            "complex64",
            "complex128",
            "datetime64",
            "timedelta64",
            "str_",
            "bytes_",
            "void",
        ],
    ),
    (
        &["numpy.core.multiarray", "numpy._core.multiarray", "numpy.multiarray"],
        &["_reconstruct", "scalar", "ndarray", "dtype"],
    ),
    (&["numpy.core.numeric", "numpy._core.numeric"], &["_frombuffer"]),
    (&["torch"], &["UntypedStorage", "_UntypedStorage"]),
    (&["torch.storage"], &["_TypedStorage", "_UntypedStorage"]),
    (&["torch.nn.parameter"], &["Buffer"]),
    (&["torch._utils"], &["_rebuild_sparse_csr_tensor", "_rebuild_xla_tensor"]),
    (&["torch.tensor"], &["_rebuild_from_type_v2"]),
    (
        &["torch.jit._pickle"],
        &[
            "build_intlist",
            "build_doublelist",
            "build_boollist",
            "build_tensorlist",
            "build_tensor_from_id",
            "restore_type_tag",
        ],
    ),
];

/// Modules of which every name, and every module within, is dangerous.
const DANGEROUS_MODULES: &[&str] = &[
    // Processes and the system.
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "_posixsubprocess",
    "_winapi",
    "commands",
    "popen2",
    "pty",
    "pipes",
    "pexpect",
    "multiprocessing",
    "concurrent",
    "threading",
    "_thread",
    "thread",
    "signal",
    "_signal",
    "atexit",
    "_interpreters",
    "_xxsubinterpreters",
    "_osx_support",
    "_aix_support",
    // Code and modules.
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "imp",
    "_imp",
    "zipimport",
    "pkgutil",
    "runpy",
    "codeop",
    "compileall",
    "py_compile",
    "marshal",
    "ctypes",
    "_ctypes",
    "cffi",
    "gc",
    "inspect",
    "bdb",
    "pdb",
    "cProfile",
    "timeit",
    "doctest",
    "pydoc",
    "idlelib",
    "lib2to3",
    "distutils",
    "setuptools",
    "pip",
    "ensurepip",
    "venv",
    "asyncio",
    "faulthandler",
    // Pickles within pickles.
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "shelve",
    // Files.
    "shutil",
    "tempfile",
    "tarfile",
    "zipfile",
    "fileinput",
    "linecache",
    "sqlite3",
    "_sqlite3",
    "mmap",
    "logging",
    // The network.
    "socket",
    "_socket",
    "socketserver",
    "SocketServer",
    "ssl",
    "_ssl",
    "selectors",
    "http",
    "httplib",
    "urllib",
    "urllib2",
    "urllib3",
    "requests",
    "aiohttp",
    "httpx",
    "ftplib",
    "smtplib",
    "poplib",
    "imaplib",
    "nntplib",
    "telnetlib",
    "xmlrpc",
    "webbrowser",
    "antigravity",
    "paramiko",
    // NumPy and PyTorch.
    "numpy.f2py",
    "numpy.testing",
    "numpy.distutils",
    "numpy.ctypeslib",
    "numpy.lib.npyio",
    "torch.hub",
    "torch.package",
    "torch._inductor",
    "torch._dynamo",
    "torch._ops",
    "torch.multiprocessing",
    "torch.distributed.rpc",
    "torch.testing",
    "torch.fx.graph_module",
    "torch.fx.experimental",
    "torch.jit.unsupported_tensor_ops",
    "torch.utils.cpp_extension",
    "torch.utils.collect_env",
    "torch.utils.bottleneck",
    "torch.utils.model_zoo",
    "torch.utils._config_module",
    "torch.utils.data.datapipes",
];

/// Modules, and the names in each of them that are dangerous, with what is within.
const DANGEROUS: &[(&[&str], &[&str])] = &[
    (
        &["builtins", "__builtin__", "__builtins__"],
        &[
            "eval",
            "exec",
            "execfile",
            "compile",
            "__import__",
            "__build_class__",
            "apply",
            "getattr",
            "setattr",
            "delattr",
            "open",
            "file",
            "input",
            "raw_input",
            "breakpoint",
            "globals",
            "locals",
            "vars",
            "reload",
            "help",
        ],
    ),
    (&["code"], &["interact", "InteractiveConsole", "InteractiveInterpreter", "compile_command"]),
    (&["profile"], &["run", "runctx", "Profile"]),
    (&["trace"], &["Trace", "main"]),
    (&["io", "_io", "_pyio"], &["open", "open_code", "FileIO", "OpenWrapper"]),
    (&["codecs"], &["open", "EncodedFile", "lookup", "register"]),
    (&["_codecs"], &["lookup", "register"]),
    (&["functools", "_functools"], &["partial", "partialmethod", "reduce", "singledispatch", "cached_property"]),
    (&["operator", "_operator"], &["attrgetter", "itemgetter", "methodcaller", "call"]),
    (
        &["types", "new"],
        &["FunctionType", "LambdaType", "CodeType", "MethodType", "ModuleType", "function", "code", "new_class"],
    ),
    (&["typing"], &["get_type_hints", "ForwardRef", "_eval_type"]),
    (&["uuid"], &["_get_command_stdout", "_popen", "getnode"]),
    (&["glob"], &["glob", "iglob"]),
    (&["platform"], &["popen", "_syscmd_file", "_syscmd_ver"]),
    (&["site"], &["execsitecustomize", "execusercustomize", "addsitedir", "addpackage", "main"]),
    (&["unittest"], &["mock", "main", "TestProgram"]),
    (&["yaml"], &["load", "load_all", "unsafe_load", "unsafe_load_all", "full_load"]),
    (&["numpy"], &["load", "save", "savez", "savetxt", "loadtxt", "genfromtxt", "fromfile", "memmap", "fromregex"]),
    (&["pandas"], &["eval", "read_pickle", "io", "core.computation"]),
    (&["torch"], &["load", "save", "from_file", "compile"]),
    (&["torch.serialization"], &["load", "save", "_load", "_legacy_load"]),
    (&["torch.storage"], &["_load_from_bytes"]),
    (&["torch.jit", "torch.jit._serialization"], &["load", "save", "CompilationUnit"]),
    (&["torch.ops", "torch.classes"], &["load_library"]),
    (&["torch.utils.data"], &["datapipes"]),
];

/// Modules, and classes in them that are plain data but have methods that touch files.
const METHODS: &[(&[&str], &[&str])] = &[
    (&["pathlib", "pathlib._local"], &["Path", "PosixPath", "WindowsPath"]),
    (&["numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.multiarray"], &["ndarray"]),
    (&["torch", "torch.storage"], &["TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage"]),
];

/// What makes a path dangerous wherever it leads through it: modules have the modules that they import as attributes.
const REACHED: &[&str] = &[
    "os",
    "sys",
    "subprocess",
    "builtins",
    "posix",
    "nt",
    "importlib",
    "shutil",
    "socket",
    "ctypes",
    "pickle",
    "runpy",
    "marshal",
    "commands",
];

/// What to think of a name in a module. Dots in the name lead to attributes.
pub(super) fn of(module: &str, name: &str) -> Verdict {
    if is_safe(module, name) {
        Verdict::Safe
    } else if is_dangerous(module, name) {
        Verdict::Dangerous
    } else {
        Verdict::Unknown
    }
}

fn is_safe(module: &str, name: &str) -> bool {
    let newer = if module == "__builtin__" { "builtins" } else { module };
    listed(SAFE, module, |safe| name == safe) || accepted::is_accepted(newer, name)
}

fn is_dangerous(module: &str, name: &str) -> bool {
    /// Nobody's class lies deeper; and each part costs a look at the lists.
    const MAX_PARTS: usize = 16;
    if name.split('.').nth(MAX_PARTS).is_some() {
        return true;
    }
    if name.split('.').any(|part| REACHED.contains(&part)) {
        return true;
    }
    // Of classes and functions, what has two underscores leads to all that their modules hold.
    if name.split('.').skip(1).any(|part| part.starts_with("__")) {
        return true;
    }
    if listed(METHODS, module, |class| name != class && is_within(name, class)) {
        return true;
    }
    // `torch` and `hub.load` is the same as `torch.hub` and `load`.
    let path = format!("{module}.{name}");
    let ends = path.char_indices().filter(|&(i, c)| c == '.' && i >= module.len()).map(|(i, _)| i);
    ends.chain([path.len()]).any(|end| {
        let (module, rest) = path.split_at_checked(end).unwrap_or((&path, ""));
        let name = rest.strip_prefix('.').unwrap_or_default();
        DANGEROUS_MODULES.iter().any(|dangerous| is_within(module, dangerous))
            || listed(DANGEROUS, module, |dangerous| is_within(name, dangerous))
    })
}

fn listed(table: &[(&[&str], &[&str])], module: &str, matches: impl Fn(&str) -> bool) -> bool {
    table.iter().any(|(modules, names)| modules.contains(&module) && names.iter().any(|name| matches(name)))
}

/// Whether a dotted path is another one, or leads on from it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_verdict_that_they_deserve() {
        for (module, name, verdict) in [
            ("collections", "OrderedDict", Verdict::Safe),
            ("torch", "FloatStorage", Verdict::Safe),
            ("torch.cuda", "HalfTensor", Verdict::Safe),
            ("torch", "float8_e4m3fn", Verdict::Safe),
            ("torch", "Tensor", Verdict::Safe),
            ("torch._utils", "_rebuild_tensor_v2", Verdict::Safe),
            ("numpy._core.multiarray", "_reconstruct", Verdict::Safe),
            ("uuid", "UUID", Verdict::Safe),
            ("io", "BytesIO", Verdict::Safe),
            ("torch.nn.modules.linear", "Linear", Verdict::Unknown),
            ("mymodels.os_net", "Net", Verdict::Unknown),
            ("osmnx", "Graph", Verdict::Unknown),
            ("builtins", "print", Verdict::Unknown),
            ("collections", "OrderedDict.fromkeys", Verdict::Unknown),
            ("os", "system", Verdict::Dangerous),
            ("os.path", "join", Verdict::Dangerous),
            ("posix", "system", Verdict::Dangerous),
            ("builtins", "eval", Verdict::Dangerous),
            ("__builtin__", "getattr", Verdict::Dangerous),
            ("functools", "partial", Verdict::Dangerous),
            ("torch", "load", Verdict::Dangerous),
            ("torch", "hub.load", Verdict::Dangerous),
            ("torch", "hub", Verdict::Dangerous),
            ("torch.serialization", "os.system", Verdict::Dangerous),
            ("torch", "serialization.os", Verdict::Dangerous),
            ("collections", "OrderedDict.__init__.__globals__", Verdict::Dangerous),
            ("numpy", "testing._private.utils.runstring", Verdict::Dangerous),
            ("code", "InteractiveInterpreter.runcode", Verdict::Dangerous),
            ("pathlib", "Path.write_text", Verdict::Dangerous),
            ("numpy", "ndarray.tofile", Verdict::Dangerous),
            ("", "", Verdict::Unknown),
            ("é.", ".é", Verdict::Unknown),
        ] {
            assert_eq!(of(module, name), verdict, "{module}.{name}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn every_name_is_in_one_list() {
        for (modules, names) in SAFE {
            for (module, name) in modules.iter().flat_map(|module| names.iter().map(move |name| (module, name))) {
                assert!(!is_dangerous(module, name), "{module}.{name}");
            }
        }
    }
}
