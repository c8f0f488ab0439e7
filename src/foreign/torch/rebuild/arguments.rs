//! What the arguments of PyTorch's rebuild functions are called, where the call stays an object: so that the parts of a sparse tensor
//! are named for what they are, not counted.

use super::super::pickle::{Graph, Ref};

/// An argument: a step of the names of what is within it, and how its own parts are called, if it is a tuple.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    /// Empty for one whose parts are named as if they were the object's own.
    pub(super) name: &'static str,
    pub(super) parts: Parts,
}

#[derive(Clone, Copy)]
pub(super) enum Parts {
    /// By their positions or keys, as everywhere.
    Counted,
    Named(&'static [&'static str]),
    /// They are the arguments of this function.
    ArgumentsOf(Ref),
}

const fn named(name: &'static str) -> Argument {
    Argument { name, parts: Parts::Counted }
}

/// The arguments of a function, from the first on; none if it is not one of PyTorch's that are known.
pub(super) fn of(graph: &Graph, function: Ref, args: &[Ref]) -> Vec<Argument> {
    let Some(name) = graph.global(function) else { return Vec::new() };
    match (&*name.module, &*name.name) {
        ("torch._utils", "_rebuild_sparse_tensor") => {
            let parts = args.first().map_or(Parts::Counted, |&layout| sparse(graph, layout));
            vec![named("layout"), Argument { name: "", parts }]
        }
        ("torch._utils", "_rebuild_nested_tensor") => ["buffer", "sizes", "strides", "offsets"].map(named).into(),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            ["", "requires_grad", "hooks", "state"].map(named).into()
        }
        ("torch._tensor", "_rebuild_from_type_v2") => {
            let parts = args.first().map_or(Parts::Counted, |&function| Parts::ArgumentsOf(function));
            vec![named("function"), named("type"), Argument { name: "", parts }, named("state")]
        }
        _ => Vec::new(),
    }
}

/// The parts of a sparse tensor; its layout is `torch.serialization._get_layout("torch.sparse_coo")`.
fn sparse(graph: &Graph, layout: Ref) -> Parts {
    let layout = graph.call(layout).and_then(|call| graph.tuple(call.args)).and_then(<[Ref]>::first);
    match layout.and_then(|&layout| graph.text(layout)) {
        Some("torch.sparse_coo") => Parts::Named(&["indices", "values", "size", "coalesced"]),
        Some("torch.sparse_csr" | "torch.sparse_bsr") => {
            Parts::Named(&["crow_indices", "col_indices", "values", "size"])
        }
        Some("torch.sparse_csc" | "torch.sparse_bsc") => {
            Parts::Named(&["ccol_indices", "row_indices", "values", "size"])
        }
        _ => Parts::Counted,
    }
}
