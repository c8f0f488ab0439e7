//! Whole modules in a document: which of their tensors are parameters and which are buffers, and what PyTorch calls them.
//!
//! A module that was pickled as such is an object whose state sorts its members into `_parameters`, `_buffers` and `_modules`. What its own
//! `state_dict()` would give can be told from those, without its class.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::len_u64;
use crate::format::value::{Dict, Value};

/// What a tensor is to the module that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// One of its `_parameters`.
    Parameter,
    /// One of its `_buffers`.
    Buffer {
        /// Whether it is part of the module's state dict.
        persistent: bool,
    },
}

/// A tensor of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleTensor<'a> {
    /// Its name in the module's state dict, or what that would be if it were part of it.
    pub name: String,
    /// Its name in the checkpoint. Tensors that are shared have one, and several in the state dict.
    pub tensor: &'a str,
    /// What it is to the module that holds it.
    pub role: Role,
}

/// The modules of a document.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::Value;
/// use dolmen::foreign::torch::{Modules, Role};
/// use dolmen::format::value::{Dict, Global, Object};
///
/// let mut linear = Object::new(Global::new("torch.nn.modules.linear", "Linear"));
/// linear.state = Some(Value::from(Dict::from([
///     ("_parameters", Value::from(Dict::from([("weight", Value::tensor("model.weight")), ("bias", Value::Null)]))),
///     ("_buffers", Value::from(Dict::new())),
///     ("_modules", Value::from(Dict::new())),
/// ])));
/// let document = Value::from(Dict::from([("model", linear)]));
///
/// let modules = Modules::of(&document);
/// let tensors = modules.state_dict(document.get("model").unwrap())?.expect("it is a module");
/// assert_eq!((tensors[0].name.as_str(), tensors[0].tensor, tensors[0].role), ("weight", "model.weight", Role::Parameter));
/// assert_eq!(tensors.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Modules<'a> {
    document: &'a Value,
    /// The values that can be referred to, by number.
    shared: Vec<&'a Value>,
    value_count: u64,
}

/// The members of a module.
struct Members<'a> {
    parameters: &'a Dict,
    buffers: &'a Dict,
    modules: &'a Dict,
    /// The elements of `_non_persistent_buffers_set`, which older versions do not have.
    transient: &'a [Value],
    state_len: usize,
}

impl<'a> Modules<'a> {
    /// Finds what is shared in a document, so that modules can be told.
    ///
    /// **Cost**: looks at every value once.
    pub fn of(document: &'a Value) -> Modules<'a> {
        let mut shared = Vec::new();
        let mut value_count = 0u64;
        for value in document.descendants() {
            value_count = value_count.saturating_add(1);
            if let Value::Shareable(inner) = value {
                shared.push(&**inner);
            }
        }
        Modules { document, shared, value_count }
    }

    /// Whether a value of the document is a module.
    pub fn is_module(&self, value: &'a Value) -> bool {
        self.members(value).is_some()
    }

    /// The tensors of a module of the document, and of the modules within it, in the order of its state dict; `None` if it is no module.
    ///
    /// A module that is held in several places is listed at each, as PyTorch does. Buffers that are not persistent are listed where they
    /// would be; a state dict leaves them out.
    ///
    /// **Cost**: in proportion to the document, whatever is shared.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) if modules hold each other, or share so much that their names would take far more room than the document.
    pub fn state_dict(&self, module: &'a Value) -> Result<Option<Vec<ModuleTensor<'a>>>> {
        let Some(root) = self.members(module) else { return Ok(None) };
        let mut budget = Budget::of(self.value_count);
        let mut found = Vec::new();
        let mut prefix = String::new();
        self.take(&root, &prefix, &mut budget, &mut found)?;
        let mut open = vec![(root.modules.entries.iter(), 0)];
        while let Some((children, prefix_len)) = open.last_mut() {
            prefix.truncate(*prefix_len);
            let Some((key, child)) = children.next() else {
                open.pop();
                continue;
            };
            let (Some(key), Some(child)) = (key.as_str(), self.members(child)) else { continue };
            budget.spend(len_u64(key.len()))?;
            prefix.push_str(key);
            prefix.push('.');
            self.take(&child, &prefix, &mut budget, &mut found)?;
            open.push((child.modules.entries.iter(), prefix.len()));
        }
        Ok(Some(found))
    }

    /// What the tensors of the document are to the modules that hold them, by their names in the checkpoint. Of a tensor that several
    /// hold, the first counts.
    ///
    /// **Cost**: linear; each module is looked at once.
    pub fn roles(&self) -> BTreeMap<&'a str, Role> {
        let mut roles = BTreeMap::new();
        let mut seen: HashSet<*const Dict> = HashSet::new();
        let mut transient: HashMap<*const Value, HashSet<&str>> = HashMap::new();
        for value in self.document.descendants() {
            let Value::Object(_) = value else { continue };
            let Some(state) = self.state(value).filter(|state| seen.insert(std::ptr::from_ref(*state))) else {
                continue;
            };
            let Some(members) = self.members_of(state) else { continue };
            // Two modules can share what they hold: there is nothing new to it then.
            if seen.insert(std::ptr::from_ref(members.parameters)) {
                for (_, tensor) in self.tensors(members.parameters) {
                    roles.entry(tensor).or_insert(Role::Parameter);
                }
            }
            if seen.insert(std::ptr::from_ref(members.buffers)) {
                let names = transient.entry(members.transient.as_ptr()).or_insert_with(|| names(members.transient));
                for (name, tensor) in self.tensors(members.buffers) {
                    roles.entry(tensor).or_insert(Role::Buffer { persistent: !names.contains(name) });
                }
            }
        }
        roles
    }

    /// Takes what a module itself holds.
    fn take(
        &self,
        members: &Members<'a>,
        prefix: &str,
        budget: &mut Budget,
        found: &mut Vec<ModuleTensor<'a>>,
    ) -> Result<()> {
        let Members { parameters, buffers, modules, transient, state_len } = members;
        let lens =
            [parameters.entries.len(), buffers.entries.len(), modules.entries.len(), transient.len(), *state_len];
        for len in lens {
            budget.spend(len_u64(len).saturating_add(1))?;
        }
        let transient = names(transient);
        let parameters = self.tensors(parameters).map(|(name, tensor)| (name, tensor, Role::Parameter));
        let buffers = self.tensors(buffers).map(|(name, tensor)| {
            let persistent = !transient.contains(name);
            (name, tensor, Role::Buffer { persistent })
        });
        for (name, tensor, role) in parameters.chain(buffers) {
            let name = format!("{prefix}{name}");
            budget.spend(len_u64(name.len()))?;
            found.push(ModuleTensor { name, tensor, role });
        }
        Ok(())
    }

    /// The tensors of a dictionary of them. Others are `None`, or something that PyTorch would not have put there.
    fn tensors(&self, dict: &'a Dict) -> impl Iterator<Item = (&'a str, &'a str)> {
        dict.entries.iter().filter_map(|(key, value)| match self.resolve(value)? {
            Value::Tensor(tensor) => Some((key.as_str()?, tensor.name.as_str())),
            _ => None,
        })
    }

    /// What a value is, or refers to.
    fn resolve(&self, value: &'a Value) -> Option<&'a Value> {
        /// References are to values; those that lead from one to another, or in a circle, mean nothing.
        const MAX_STEPS: usize = 4;
        let mut value = value.unmarked();
        for _ in 0..MAX_STEPS {
            match value {
                Value::SharedRef(number) => {
                    value = self.shared.get(crate::format::len_usize(*number)?)?.unmarked();
                }
                value => return Some(value),
            }
        }
        None
    }

    fn dict(&self, value: &'a Value) -> Option<&'a Dict> {
        match self.resolve(value)? {
            Value::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    fn state(&self, value: &'a Value) -> Option<&'a Dict> {
        match self.resolve(value)? {
            Value::Object(object) => self.dict(object.state.as_ref()?),
            _ => None,
        }
    }

    fn members(&self, value: &'a Value) -> Option<Members<'a>> {
        self.members_of(self.state(value)?)
    }

    fn members_of(&self, state: &'a Dict) -> Option<Members<'a>> {
        let parameters = self.dict(state.get("_parameters")?)?;
        let buffers = self.dict(state.get("_buffers")?)?;
        let modules = self.dict(state.get("_modules")?)?;
        let transient = state.get("_non_persistent_buffers_set").and_then(|set| self.resolve(set)?.as_slice());
        let state_len = state.entries.len();
        Some(Members { parameters, buffers, modules, transient: transient.unwrap_or_default(), state_len })
    }
}

fn names(values: &[Value]) -> HashSet<&str> {
    values.iter().filter_map(Value::as_str).collect()
}

/// How much may be told of a document: what is shared is told again and again.
struct Budget(u64);

impl Budget {
    fn of(value_count: u64) -> Budget {
        /// For each value, and for any document.
        const RATIO: u64 = 64;
        const ANY: u64 = 1 << 20;
        Budget(value_count.saturating_mul(RATIO).saturating_add(ANY))
    }

    fn spend(&mut self, amount: u64) -> Result<()> {
        self.0 = self.0.checked_sub(amount).ok_or_else(|| {
            let message = "the modules hold each other, or share so much, that their tensors have no end of names";
            Error::new(ErrorKind::Limit, message)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::value::{DictKind, Global, Object};

    fn dict(entries: Vec<(&str, Value)>) -> Value {
        Value::from(Dict::from_iter(entries))
    }

    fn module(parameters: Value, buffers: Value, transient: &[&str], modules: Value) -> Value {
        let mut module = Object::new(Global::new("m", "Net"));
        let transient = Value::Set(transient.iter().map(|&name| Value::from(name)).collect());
        module.state = Some(dict(vec![
            ("training", true.into()),
            ("_parameters", parameters),
            ("_buffers", buffers),
            ("_non_persistent_buffers_set", transient),
            ("_modules", modules),
        ]));
        module.into()
    }

    fn leaf(tensor: &str) -> Value {
        module(dict(vec![("w", Value::tensor(tensor)), ("none", Value::Null)]), dict(vec![]), &[], dict(vec![]))
    }

    fn shared(value: Value) -> Value {
        Value::Shareable(Box::new(value))
    }

    fn told<'a>(tensors: &'a [ModuleTensor<'_>]) -> Vec<(&'a str, &'a str, Role)> {
        tensors.iter().map(|tensor| (&*tensor.name, tensor.tensor, tensor.role)).collect()
    }

    #[test]
    fn tensors_have_their_names_in_the_state_dict_in_its_order() {
        let buffers =
            dict(vec![("mean", Value::tensor("t.mean")), ("mask", Value::tensor("t.mask")), ("no", Value::Null)]);
        let mut ordered = Dict::of_kind(DictKind::Ordered);
        ordered.push("0", shared(leaf("t.0.w")));
        ordered.push("act", module(dict(vec![]), dict(vec![]), &[], dict(vec![])));
        ordered.push("none", Value::Null);
        ordered.push("tied", Value::SharedRef(0));
        let root = module(dict(vec![("scale", shared(Value::tensor("t.scale")))]), buffers, &["mask"], ordered.into());
        // What is shared begins with the parameter.
        let root = match root {
            Value::Object(mut object) => {
                let Some(Value::Dict(state)) = &mut object.state else { panic!() };
                let Some((_, Value::Dict(modules))) = state.entries.last_mut() else { panic!() };
                modules.entries[3].1 = Value::SharedRef(1);
                Value::Object(object)
            }
            _ => panic!(),
        };
        let document = dict(vec![("net", root), ("other", Value::from(1))]);
        let modules = Modules::of(&document);
        let net = document.get("net").unwrap();
        let tensors = modules.state_dict(net).unwrap().unwrap();
        let expected = [
            ("scale", "t.scale", Role::Parameter),
            ("mean", "t.mean", Role::Buffer { persistent: true }),
            ("mask", "t.mask", Role::Buffer { persistent: false }),
            ("0.w", "t.0.w", Role::Parameter),
            ("tied.w", "t.0.w", Role::Parameter),
        ];
        assert_eq!(told(&tensors), expected);
        let roles = modules.roles();
        assert_eq!(roles.len(), 4);
        assert_eq!(roles["t.mask"], Role::Buffer { persistent: false });
        assert!(modules.is_module(net) && !modules.is_module(&document));
        assert_eq!(modules.state_dict(&document).unwrap(), None);
    }

    #[test]
    fn modules_of_before_there_was_persistence_have_persistent_buffers() {
        let mut old = Object::new(Global::new("m", "Net"));
        old.state = Some(dict(vec![
            ("_parameters", dict(vec![])),
            ("_buffers", dict(vec![("mean", Value::tensor("mean"))])),
            ("_modules", dict(vec![])),
        ]));
        let old = Value::from(old);
        assert_eq!(Modules::of(&old).roles()["mean"], Role::Buffer { persistent: true });
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn modules_that_share_modules_do_not_explode() {
        // Each holds the next one twice: 2^60 names.
        let mut inner = leaf("w");
        for depth in (0..60).rev() {
            inner = module(
                dict(vec![]),
                dict(vec![]),
                &[],
                dict(vec![("a", shared(inner)), ("b", Value::SharedRef(depth))]),
            );
        }
        let e = Modules::of(&inner).state_dict(&inner).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Limit);
        assert_eq!(Modules::of(&inner).roles().len(), 1);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn modules_within_themselves_are_an_error() {
        let own = shared(module(dict(vec![]), dict(vec![]), &[], dict(vec![("self", Value::SharedRef(0))])));
        let modules = Modules::of(&own);
        assert_eq!(modules.state_dict(&own).unwrap_err().kind(), ErrorKind::Limit);
        assert!(modules.roles().is_empty());
    }

    #[test]
    fn references_that_lead_nowhere_mean_nothing() {
        for state in [Value::SharedRef(7), shared(Value::SharedRef(0)), Value::Null, shared(Value::SharedRef(u64::MAX))]
        {
            let mut object = Object::new(Global::new("m", "Net"));
            object.state = Some(state);
            let value = Value::from(object);
            assert!(!Modules::of(&value).is_module(&value));
            assert!(Modules::of(&value).roles().is_empty());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn what_many_objects_share_is_looked_at_once() {
        let wide: Vec<(Value, Value)> = (0..50_000).map(|i| (Value::from(i), Value::Null)).collect();
        let mut state = Dict::new();
        state.entries = wide;
        let object = |state| {
            let mut object = Object::new(Global::new("m", "Net"));
            object.state = Some(state);
            Value::from(object)
        };
        let mut list = vec![object(shared(state.into()))];
        list.extend((0..50_000).map(|_| object(Value::SharedRef(0))));
        let document = Value::List(list);
        let start = std::time::Instant::now();
        assert!(Modules::of(&document).roles().is_empty());
        assert!(start.elapsed().as_secs() < 5);
    }
}
