//! What a default `torch.load` (`weights_only=True`) takes without being told to.

use super::vocabulary;

/// Names by module, in the order of the alphabet.
const ACCEPTED: &[(&str, &[&str])] = &[
    ("_codecs", &["encode"]),
    ("builtins", &["bytearray", "complex", "set"]),
    ("collections", &["Counter", "OrderedDict"]),
    (
        "torch",
        &[
            "Size",
            "Tensor",
            "device",
            "per_channel_affine",
            "per_channel_affine_float_qparams",
            "per_channel_symmetric",
            "per_tensor_affine",
            "per_tensor_symmetric",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    (
        "torch._utils",
        &[
            "_rebuild_device_tensor_from_cpu_tensor",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_nested_tensor",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_wrapper_subclass",
        ],
    ),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.storage", &["TypedStorage", "UntypedStorage"]),
];

/// Whether such a load takes this name.
pub(super) fn is_accepted(module: &str, name: &str) -> bool {
    let listed = ACCEPTED.iter().any(|(known, names)| *known == module && names.contains(&name));
    listed
        || match module {
            "torch" => is_dtype(name) || is_storage(name) || is_tensor(name),
            "torch.cuda" => is_storage(name) || is_tensor(name),
            "torch.sparse" | "torch.cuda.sparse" => is_tensor(name),
            _ => false,
        }
}

fn is_dtype(name: &str) -> bool {
    // Integers of 1 to 7 bits have names, and no tensors that could be saved.
    let bits = name.strip_prefix("uint").or_else(|| name.strip_prefix("int"));
    vocabulary::dtype_named(name).is_some() || matches!(bits, Some("1" | "2" | "3" | "4" | "5" | "6" | "7"))
}

fn is_storage(name: &str) -> bool {
    vocabulary::dtype_of_storage(name).is_some()
}

/// The older classes of tensors are called as their storages are.
fn is_tensor(name: &str) -> bool {
    let class = name.strip_suffix("Tensor").map(|kind| format!("{kind}Storage"));
    let dtype = class.and_then(|class| vocabulary::dtype_of_storage(&class));
    dtype.is_some_and(|dtype| !dtype.needs_attribute && !name.starts_with("Complex"))
}

/// Whether such a load lets a state be given to an instance of this class.
pub(super) fn takes_state(module: &str, name: &str) -> bool {
    matches!((module, name), ("torch.nn.parameter", "Parameter") | ("collections", "OrderedDict") | ("torch", "Tensor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_storages_and_rebuild_functions_are_accepted_and_other_things_are_not() {
        for (module, name) in [
            ("torch", "float32"),
            ("torch", "float8_e4m3fn"),
            ("torch", "HalfStorage"),
            ("torch", "QUInt8Storage"),
            ("torch", "BFloat16Tensor"),
            ("torch", "uint4"),
            ("torch.sparse", "FloatTensor"),
            ("torch._utils", "_rebuild_tensor_v3"),
            ("builtins", "set"),
        ] {
            assert!(is_accepted(module, name), "{module}.{name}");
        }
        for (module, name) in [
            ("builtins", "frozenset"),
            ("collections", "defaultdict"),
            ("numpy", "ndarray"),
            ("torch", "load"),
            ("torch", "uint9"),
            ("torch", "ComplexFloatTensor"),
            ("os", "system"),
            ("torch.nn", "float32"),
        ] {
            assert!(!is_accepted(module, name), "{module}.{name}");
        }
    }
}
