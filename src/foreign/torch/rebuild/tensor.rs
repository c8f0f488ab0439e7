//! PyTorch's tensors: what its rebuild functions make of their arguments.

use super::super::pickle::{Call, Graph, How, Node, Ref};
use super::super::vocabulary::{self, TorchDType};
use super::meaning::{Blob, is_plain};
use crate::format::dtype::DType;

/// A tensor, not yet checked against its storage.
pub(super) struct Tensor<'g> {
    pub(super) data: Data<'g>,
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Option<Vec<u64>>,
    /// In elements.
    pub(super) offset: u64,
    pub(super) held: Held,
    /// What else there is to say of it, each a key of [`vocabulary`] and a value of the graph.
    pub(super) further: Vec<(&'static str, Ref)>,
    /// The rest of the metadata: all but the bits that are understood.
    pub(super) metadata: Vec<(Ref, Ref)>,
}

/// How a tensor was held, as far as that is flags and words.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) kind: Option<&'static str>,
    pub(super) requires_grad: bool,
    pub(super) conj: bool,
    pub(super) neg: bool,
    /// PyTorch's dtype, where the tensor's own does not say it.
    pub(super) dtype: Option<&'static str>,
    pub(super) big_endian: bool,
    /// Whether NumPy's functions have the names that they had before its version 2.
    pub(super) is_old_numpy: bool,
}

/// Where a tensor's elements are.
pub(super) enum Data<'g> {
    Storage(StorageId<'g>),
    /// In the pickle itself; swapped elements are so long.
    Blob(Blob<'g>, Option<u8>),
}

/// What a persistent id says of a storage.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct StorageId<'g> {
    /// `None` for a storage of mere bytes.
    pub(in super::super) dtype: Option<&'static TorchDType>,
    pub(in super::super) key: &'g str,
    pub(in super::super) location: &'g str,
    /// Elements; bytes, if there is no dtype.
    pub(in super::super) element_count: u64,
    /// Only a part of it: first element and number of elements. In the format before 1.6 only.
    pub(in super::super) view: Option<(u64, u64)>,
}

/// How many entries a tensor's metadata may have: it has two or three.
const MAX_METADATA: usize = 16;
/// The longest name of a device.
const MAX_LOCATION_LEN: usize = 64;
/// The longest key of a storage: they are numbers. Every tensor looks its storage up, so a long one would cost each of them.
const MAX_KEY_LEN: usize = 256;

impl<'g> StorageId<'g> {
    /// `('storage', class, key, location, numel)`, and perhaps a view.
    pub(in super::super) fn parse(graph: &'g Graph, id: Ref) -> Option<StorageId<'g>> {
        let (&[tag, class, key, location, count], view) = graph.tuple(id)?.split_first_chunk::<5>()?;
        if graph.text(tag) != Some("storage") {
            return None;
        }
        let class = graph.global(class)?;
        let dtype = match &*class.name {
            "UntypedStorage" | "_UntypedStorage" => None,
            name => Some(vocabulary::dtype_of_storage(name)?),
        };
        let view = match *view {
            [] | [Ref::None] => None,
            [view] => {
                // The key of the view is its own business: nothing else refers to it.
                let &[_, offset, len] = graph.tuple(view)? else { return None };
                Some((natural(offset)?, natural(len)?))
            }
            _ => return None,
        };
        let location = graph.text(location).filter(|location| location.len() <= MAX_LOCATION_LEN)?;
        let key = graph.text(key).filter(|key| key.len() <= MAX_KEY_LEN)?;
        Some(StorageId { dtype, key, location, element_count: natural(count)?, view })
    }

    /// All that a graph speaks of, some of them more than once.
    pub(in super::super) fn all(graph: &'g Graph) -> impl Iterator<Item = StorageId<'g>> {
        let nodes = (0..graph.len()).filter_map(|node| graph.node(u32::try_from(node).ok()?));
        nodes.filter_map(|node| match node {
            Node::Persistent(id) => StorageId::parse(graph, *id),
            _ => None,
        })
    }

    /// What its data should begin at a multiple of, to be used where it lies.
    pub(super) fn alignment(&self) -> u64 {
        self.dtype.map_or(16, TorchDType::component_len).max(1)
    }

    /// How long it is in bytes, if that is a number at all.
    pub(in super::super) fn byte_len(&self) -> Option<u64> {
        match self.dtype {
            None => Some(self.element_count),
            Some(dtype) => self.element_count.checked_mul(dtype.element_len()),
        }
    }
}

fn natural(value: Ref) -> Option<u64> {
    match value {
        Ref::Int(value) => u64::try_from(value).ok(),
        _ => None,
    }
}

fn naturals(graph: &Graph, value: Ref) -> Option<Vec<u64>> {
    let items = match graph.get(value)? {
        Node::Tuple(items) => items,
        // `torch.Size((2, 3))`
        Node::Call(call) => {
            let name = graph.global(call.callable)?;
            if !is_plain(call) || (&*name.module, &*name.name) != ("torch", "Size") {
                return None;
            }
            let &[items] = graph.tuple(call.args)? else { return None };
            graph.tuple(items)?
        }
        _ => return None,
    };
    // As many axes as PyTorch has at most.
    const MAX_RANK: usize = 64;
    if items.len() > MAX_RANK {
        return None;
    }
    items.iter().map(|&item| natural(item)).collect()
}

fn boolean(value: Ref) -> Option<bool> {
    match value {
        Ref::Bool(value) => Some(value),
        _ => None,
    }
}

/// Whether these are no hooks at all.
fn is_no_hooks(graph: &Graph, hooks: Ref) -> bool {
    match hooks {
        Ref::None => true,
        hooks => graph.call(hooks).is_some_and(|call| {
            let name = graph.global(call.callable);
            let ordered = name.is_some_and(|name| (&*name.module, &*name.name) == ("collections", "OrderedDict"));
            let none = match graph.tuple(call.args) {
                Some([]) => true,
                Some(&[items]) => matches!(graph.get(items), Some(Node::List(items)) if items.len() == 0),
                _ => false,
            };
            ordered && is_plain(call) && none
        }),
    }
}

impl<'g> Tensor<'g> {
    pub(super) fn new(data: Data<'g>, dtype: DType, shape: Vec<u64>) -> Tensor<'g> {
        let (held, further, metadata) = (Held::default(), Vec::new(), Vec::new());
        Tensor { data, dtype, shape, strides: None, offset: 0, held, further, metadata }
    }

    fn hooks(&mut self, graph: &Graph, hooks: Ref) {
        if !is_no_hooks(graph, hooks) {
            self.further.push((vocabulary::HOOKS, hooks));
        }
    }

    /// The arguments that come last: whether it requires a gradient, hooks, and metadata if there is any.
    fn last(&mut self, graph: &Graph, requires_grad: Ref, hooks: Ref, rest: &[Ref]) -> Option<()> {
        self.held.requires_grad = boolean(requires_grad)?;
        self.hooks(graph, hooks);
        match *rest {
            [] => Some(()),
            [metadata] => self.metadata(graph, metadata),
            _ => None,
        }
    }

    fn metadata(&mut self, graph: &Graph, metadata: Ref) -> Option<()> {
        let entries = match metadata {
            Ref::None => return Some(()),
            metadata => match graph.get(metadata)? {
                Node::Dict(entries) if entries.len() <= MAX_METADATA => entries,
                _ => return None,
            },
        };
        for &(key, value) in entries {
            match (graph.text(key), value) {
                (Some("conj"), Ref::Bool(bit)) => self.held.conj = bit,
                (Some("neg"), Ref::Bool(bit)) => self.held.neg = bit,
                _ => self.metadata.push((key, value)),
            }
        }
        Some(())
    }
}

/// A storage that is held as such: a tensor over all of it.
pub(super) fn of_storage<'g>(graph: &'g Graph, id: Ref) -> Option<Tensor<'g>> {
    let storage = StorageId::parse(graph, id)?;
    let mut tensor = over(storage, storage.dtype, storage.element_count)?;
    let count = match storage.view {
        Some((_, count)) => count,
        None => storage.element_count,
    };
    tensor.shape = vec![count];
    tensor.held.kind = Some(if storage.dtype.is_some() { vocabulary::STORAGE } else { vocabulary::UNTYPED_STORAGE });
    Some(tensor)
}

/// A tensor over a storage, of a dtype, from the storage's beginning.
fn over<'g>(storage: StorageId<'g>, dtype: Option<&'static TorchDType>, count: u64) -> Option<Tensor<'g>> {
    let element = dtype.map_or(DType::U8, |dtype| dtype.dtype);
    let mut tensor = Tensor::new(Data::Storage(storage), element, vec![count]);
    tensor.held.dtype = dtype.filter(|dtype| dtype.needs_attribute).map(|dtype| dtype.name);
    Some(tensor)
}

/// A tensor over the storage that a value is.
fn viewed<'g>(
    graph: &'g Graph,
    storage: Ref,
    place: [Ref; 3],
    dtype: Option<&'static TorchDType>,
) -> Option<Tensor<'g>> {
    let Some(Node::Persistent(id)) = graph.get(storage) else { return None };
    let storage = StorageId::parse(graph, *id)?;
    let dtype = dtype.or(storage.dtype).filter(|dtype| !dtype.is_packed_by_rows())?;
    let mut tensor = over(storage, Some(dtype), 0)?;
    let [offset, shape, strides] = place;
    tensor.offset = natural(offset)?;
    tensor.shape = naturals(graph, shape)?;
    tensor.strides = Some(naturals(graph, strides)?);
    if tensor.strides.as_ref()?.len() != tensor.shape.len() {
        return None;
    }
    Some(tensor)
}

/// The tensor that a call rebuilds; `None` if it is not one of the functions that are understood, or gets something that they do not take.
pub(super) fn of_call<'g>(graph: &'g Graph, call: &'g Call) -> Option<Tensor<'g>> {
    if !is_plain(call) || !matches!(call.how, How::Call) {
        return None;
    }
    rebuilt(graph, call.callable, graph.tuple(call.args)?, true)
}

/// `nested` says whether a function that takes another tensor may be meant: two levels are all there is.
fn rebuilt<'g>(graph: &'g Graph, function: Ref, args: &'g [Ref], nested: bool) -> Option<Tensor<'g>> {
    let name = graph.global(function)?;
    match (&*name.module, &*name.name) {
        ("torch._utils", "_rebuild_tensor") => {
            let &[storage, offset, shape, strides] = args else { return None };
            viewed(graph, storage, [offset, shape, strides], None)
        }
        ("torch._utils", "_rebuild_tensor_v2") => {
            let (&[storage, offset, shape, strides, requires_grad, hooks], rest) = args.split_first_chunk::<6>()?;
            let mut tensor = viewed(graph, storage, [offset, shape, strides], None)?;
            tensor.last(graph, requires_grad, hooks, rest)?;
            Some(tensor)
        }
        ("torch._utils", "_rebuild_tensor_v3") => {
            let (&[storage, offset, shape, strides, requires_grad, hooks, dtype], rest) =
                args.split_first_chunk::<7>()?;
            let dtype = graph.global(dtype).filter(|dtype| &*dtype.module == "torch")?;
            let dtype = vocabulary::dtype_named(&dtype.name)?;
            let mut tensor = viewed(graph, storage, [offset, shape, strides], Some(dtype))?;
            tensor.last(graph, requires_grad, hooks, rest)?;
            Some(tensor)
        }
        ("torch._utils", "_rebuild_qtensor") => {
            let &[storage, offset, shape, strides, quantizer, requires_grad, hooks] = args else { return None };
            let mut tensor = viewed(graph, storage, [offset, shape, strides], None)?;
            graph.tuple(quantizer)?;
            tensor.further.push((vocabulary::QUANTIZER, quantizer));
            tensor.held.requires_grad = boolean(requires_grad)?;
            tensor.hooks(graph, hooks);
            Some(tensor)
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") if nested => {
            let (&[data, requires_grad, hooks], rest) = args.split_first_chunk::<3>()?;
            let data = graph.call(data).filter(|call| is_plain(call))?;
            let mut tensor = rebuilt(graph, data.callable, graph.tuple(data.args)?, false)?;
            // A parameter's data has neither: what has, is not to be taken apart.
            if tensor.held.requires_grad || !tensor.further.iter().all(|(key, _)| *key == vocabulary::QUANTIZER) {
                return None;
            }
            tensor.held.kind = Some(vocabulary::PARAMETER);
            tensor.held.requires_grad = boolean(requires_grad)?;
            tensor.hooks(graph, hooks);
            match (&*name.name, rest) {
                ("_rebuild_parameter", []) => {}
                ("_rebuild_parameter_with_state", &[state]) => tensor.further.push((vocabulary::STATE, state)),
                _ => return None,
            }
            Some(tensor)
        }
        ("torch._tensor", "_rebuild_from_type_v2") if nested => {
            let &[function, class, args, state] = args else { return None };
            let mut tensor = rebuilt(graph, function, graph.tuple(args)?, false)?;
            graph.global(class)?;
            tensor.further.push((vocabulary::TYPE, class));
            tensor.further.push((vocabulary::STATE, state));
            Some(tensor)
        }
        _ => None,
    }
}
