//! NumPy's arrays and scalars within a pickle.

use super::super::pickle::{Call, Graph, How, Name, Node, Ref};
use super::super::vocabulary;
use super::meaning::{self, Blob, Meaning, Place, is_plain};
use super::tensor::{Data, Tensor};
use crate::format::dtype::DType;
use crate::format::layout;

/// Whether a name is a function of one of NumPy's modules, which have moved under `numpy._core`.
fn is_numpy(name: &Name, module: &str, function: &str) -> bool {
    let rest = name.module.strip_prefix("numpy.core.").or_else(|| name.module.strip_prefix("numpy._core."));
    rest == Some(module) && &*name.name == function
}

/// The array or scalar that a call rebuilds; `None` if it is none, or one whose elements Dolmen has no dtype for.
pub(super) fn of_call<'g>(graph: &'g Graph, call: &'g Call) -> Option<Tensor<'g>> {
    let name = graph.global(call.callable)?;
    let mut tensor = made(graph, call, name)?;
    tensor.held.is_old_numpy = name.module.starts_with("numpy.core.");
    Some(tensor)
}

fn made<'g>(graph: &'g Graph, call: &'g Call, name: &Name) -> Option<Tensor<'g>> {
    let args = graph.tuple(call.args)?;
    if is_numpy(name, "multiarray", "_reconstruct") {
        return reconstructed(graph, call, args);
    }
    if !is_plain(call) {
        return None;
    }
    if is_numpy(name, "multiarray", "scalar") {
        let &[dtype, data] = args else { return None };
        let mut tensor = array(graph, dtype, Vec::new(), meaning::bytes(graph, data)?)?;
        tensor.held.kind = Some(vocabulary::SCALAR);
        return Some(tensor);
    }
    if is_numpy(name, "numeric", "_frombuffer") {
        let (&[data, dtype, shape, order], axes) = args.split_first_chunk::<4>()?;
        let (Meaning::Bytes(data) | Meaning::ByteArray(data)) = meaning::of(graph, data) else { return None };
        let mut tensor = array(graph, dtype, shape_of(graph, shape)?, data)?;
        // Only here the array itself is big-endian: the other functions make it native.
        tensor.held.big_endian = element(graph, dtype)?.1;
        match (graph.text(order)?, axes) {
            ("C", []) => {}
            ("F", []) => fortran(&mut tensor),
            ("K", &[axes]) => transpose(&mut tensor, &shape_of(graph, axes)?)?,
            _ => return None,
        }
        return Some(tensor);
    }
    None
}

/// `_reconstruct(ndarray, (0,), b'b')`, and then the state `(1, shape, dtype, is_fortran, bytes)`.
fn reconstructed<'g>(graph: &'g Graph, call: &'g Call, args: &[Ref]) -> Option<Tensor<'g>> {
    let plain = matches!(call.how, How::Call) && call.items.is_empty() && call.entries.is_empty();
    let &[class, _, _] = args else { return None };
    let class = graph.global(class)?;
    if !plain || (&*class.module, &*class.name) != ("numpy", "ndarray") {
        return None;
    }
    let &[Ref::Int(1), shape, dtype, Ref::Bool(is_fortran), data] = graph.tuple(call.state?)? else { return None };
    let mut tensor = array(graph, dtype, shape_of(graph, shape)?, meaning::bytes(graph, data)?)?;
    if is_fortran {
        fortran(&mut tensor);
    }
    Some(tensor)
}

fn array<'g>(graph: &'g Graph, dtype: Ref, shape: Vec<u64>, data: Blob<'g>) -> Option<Tensor<'g>> {
    let (dtype, big_endian) = element(graph, dtype)?;
    let len = layout::contiguous_len(layout::element_count(&shape, dtype.bits())?, dtype.bits())?;
    // What is here is counted now; what stayed in the file, when it is decoded.
    let possible = match data {
        Blob { place: Place::Here(bytes), latin1: true } => meaning::decode_latin1(bytes)?.len(),
        Blob { place: Place::Here(bytes), latin1: false } => bytes.len(),
        Blob { place: Place::InFile(payload), latin1 } => {
            let most = payload.len;
            let least = if latin1 { most.div_ceil(2) } else { most };
            if len < least || len > most {
                return None;
            }
            crate::format::len_usize(len)?
        }
    };
    if crate::format::len_u64(possible) != len {
        return None;
    }
    let swapped = if big_endian { u8::try_from(vocabulary::component_len(dtype)).ok() } else { None };
    let mut tensor = Tensor::new(Data::Blob(data, swapped), dtype, shape);
    tensor.held.kind = Some(vocabulary::ARRAY);
    Some(tensor)
}

fn shape_of(graph: &Graph, shape: Ref) -> Option<Vec<u64>> {
    let natural = |&item: &Ref| match item {
        Ref::Int(value) => u64::try_from(value).ok(),
        _ => None,
    };
    /// As many axes as NumPy has at most.
    const MAX_RANK: usize = 64;
    let shape = graph.tuple(shape).filter(|shape| shape.len() <= MAX_RANK)?;
    shape.iter().map(natural).collect()
}

fn fortran(tensor: &mut Tensor<'_>) {
    let mut reversed = tensor.shape.clone();
    reversed.reverse();
    let mut strides = layout::contiguous_strides(&reversed);
    strides.reverse();
    tensor.strides = Some(strides);
}

/// Puts the axes in another order: each number of it says which of the axes so far comes there.
fn transpose(tensor: &mut Tensor<'_>, order: &[u64]) -> Option<()> {
    let strides = layout::contiguous_strides(&tensor.shape);
    let mut axes: Vec<Option<(u64, u64)>> = tensor.shape.iter().copied().zip(strides).map(Some).collect();
    if order.len() != axes.len() {
        return None;
    }
    let take = |&axis: &u64| axes.get_mut(crate::format::len_usize(axis)?)?.take();
    let (shape, strides) = order.iter().map(take).collect::<Option<(Vec<u64>, Vec<u64>)>>()?;
    (tensor.shape, tensor.strides) = (shape, Some(strides));
    Some(())
}

/// The dtype that `dtype('f4', False, True)` with the state `(3, '<', None, None, None, -1, -1, 0)` is, and whether it is big-endian.
fn element(graph: &Graph, dtype: Ref) -> Option<(DType, bool)> {
    let call = graph.call(dtype)?;
    let name = graph.global(call.callable)?;
    if (&*name.module, &*name.name) != ("numpy", "dtype") || !call.items.is_empty() || !call.entries.is_empty() {
        return None;
    }
    let kind = match graph.get(*graph.tuple(call.args)?.first()?)? {
        Node::Text(kind) | Node::OldText(kind) | Node::Bytes(kind) => &**kind,
        _ => return None,
    };
    let &(_, dtype) = vocabulary::NUMPY_DTYPES.iter().find(|(name, _)| name.as_bytes() == kind)?;
    let big_endian = match call.state {
        None => false,
        Some(state) => match *graph.tuple(state)? {
            // Names, fields and subarrays are of other kinds of dtypes; metadata comes as a ninth element.
            [Ref::Int(_), order, Ref::None, Ref::None, Ref::None, _, _, _] => match graph.get(order)? {
                Node::Text(order) | Node::OldText(order) | Node::Bytes(order) => match &**order {
                    b"<" | b"|" | b"=" => false,
                    b">" => true,
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        },
    };
    Some((dtype, big_endian))
}
