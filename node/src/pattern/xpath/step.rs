//! Nodes, axes and node tests.

use roxmltree::{Document, Node, NodeType};

use super::parse::{Axis, Test};

/// A node of the document, or an attribute of one of its elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Node(Node<'a, 'a>),
    Attribute(Node<'a, 'a>, usize),
}

impl<'a> Place<'a> {
    /// Where it stands in the document.
    pub(super) fn key(self) -> (usize, usize) {
        match self {
            Self::Node(node) => (node.id().get_usize(), 0),
            Self::Attribute(owner, index) => (owner.id().get_usize(), index + 1),
        }
    }

    /// The text of what has no nodes inside.
    pub(super) fn own_text(self) -> &'a str {
        match self {
            Self::Attribute(owner, index) => attribute(owner, index).map_or("", |found| found.value()),
            Self::Node(node) => match node.pi() {
                Some(instruction) => instruction.value.unwrap_or_default(),
                None => node.text().unwrap_or_default(),
            },
        }
    }

    /// Its XML, as it stands in the document; an attribute with a blank before it, as OpenHIM's library writes it.
    pub(super) fn xml(self, document: &'a Document<'a>) -> String {
        match self {
            Self::Node(node) => document.input_text().get(node.range()).unwrap_or_default().to_owned(),
            Self::Attribute(owner, index) => attribute(owner, index)
                .map(|found| format!(" {}", document.input_text().get(found.range()).unwrap_or_default()))
                .unwrap_or_default(),
        }
    }

    /// Local name and namespace.
    pub(super) fn name(self) -> (&'a str, &'a str) {
        match self {
            Self::Attribute(owner, index) => {
                attribute(owner, index).map_or(("", ""), |found| (found.name(), found.namespace().unwrap_or_default()))
            }
            Self::Node(node) => match node.node_type() {
                NodeType::Element => (node.tag_name().name(), node.tag_name().namespace().unwrap_or_default()),
                NodeType::PI => (node.pi().map_or("", |pi| pi.target), ""),
                _ => ("", ""),
            },
        }
    }

    /// Its name as it is written in the document, prefix included.
    pub(super) fn qualified_name(self, document: &'a Document<'a>) -> String {
        let (local, _) = self.name();
        let source = match self {
            Self::Attribute(owner, index) => attribute(owner, index).map(|found| found.range_qname()),
            Self::Node(node) if node.is_element() => Some(node.range().start + 1..node.range().end),
            Self::Node(_) => None,
        };
        let written = source
            .and_then(|range| document.input_text().get(range))
            .unwrap_or(local);
        let is_part = |c: char| !(c.is_whitespace() || matches!(c, '>' | '/' | '='));
        written.chars().take_while(|c| is_part(*c)).collect()
    }

    /// The element that an attribute belongs to, or what a node is inside of.
    fn parent(self) -> Option<Node<'a, 'a>> {
        match self {
            Self::Node(node) => node.parent(),
            Self::Attribute(owner, _) => Some(owner),
        }
    }
}

fn attribute<'a>(owner: Node<'a, 'a>, index: usize) -> Option<roxmltree::Attribute<'a, 'a>> {
    owner.attributes().nth(index)
}

/// What lies on an axis, nearest first.
pub(super) fn on_axis<'a>(from: Place<'a>, axis: Axis) -> Box<dyn Iterator<Item = Place<'a>> + 'a> {
    let nodes = |nodes: Box<dyn Iterator<Item = Node<'a, 'a>> + 'a>| -> Box<dyn Iterator<Item = Place<'a>> + 'a> {
        Box::new(nodes.map(Place::Node))
    };
    match (axis, from) {
        (Axis::Itself, _) => Box::new(std::iter::once(from)),
        (Axis::Namespace, _) => Box::new(std::iter::empty()),
        (Axis::Parent, _) => nodes(Box::new(from.parent().into_iter())),
        (Axis::Ancestor, _) => nodes(Box::new(ancestors(from.parent()))),
        (Axis::AncestorOrSelf, _) => Box::new(std::iter::once(from).chain(ancestors(from.parent()).map(Place::Node))),
        (Axis::DescendantOrSelf, Place::Node(node)) => nodes(Box::new(node.descendants())),
        (Axis::DescendantOrSelf, Place::Attribute(..)) => Box::new(std::iter::once(from)),
        (Axis::Attribute, Place::Node(node)) => {
            Box::new((0..node.attributes().len()).map(move |index| Place::Attribute(node, index)))
        }
        (Axis::Child, Place::Node(node)) => nodes(Box::new(node.children())),
        (Axis::Descendant, Place::Node(node)) => nodes(Box::new(node.descendants().skip(1))),
        (Axis::FollowingSibling, Place::Node(node)) => nodes(Box::new(node.next_siblings().skip(1))),
        (Axis::PrecedingSibling, Place::Node(node)) => nodes(Box::new(node.prev_siblings().skip(1))),
        (Axis::Following, Place::Node(node)) => nodes(Box::new(following(node))),
        // What follows an attribute is what is inside its element and after it.
        (Axis::Following, Place::Attribute(owner, _)) => {
            nodes(Box::new(owner.descendants().skip(1).chain(following(owner))))
        }
        (Axis::Preceding, _) => {
            let node = match from {
                Place::Node(node) | Place::Attribute(node, _) => node,
            };
            nodes(Box::new(preceding(node)))
        }
        (_, Place::Attribute(..)) => Box::new(std::iter::empty()),
    }
}

fn ancestors<'a>(first: Option<Node<'a, 'a>>) -> impl Iterator<Item = Node<'a, 'a>> {
    std::iter::successors(first, |node| node.parent())
}

fn following<'a>(node: Node<'a, 'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    ancestors(Some(node))
        .flat_map(|node| node.next_siblings().skip(1))
        .flat_map(|sibling| sibling.descendants())
}

fn preceding<'a>(node: Node<'a, 'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    ancestors(Some(node))
        .flat_map(|node| node.prev_siblings().skip(1))
        .flat_map(|sibling| sibling.descendants().rev())
}

/// What a test of a step compares with.
#[derive(Debug)]
pub(super) enum Resolved<'t> {
    Node,
    Text,
    Comment,
    Instruction(Option<&'t str>),
    /// Absent parts mean any; an empty namespace means none.
    Name {
        namespace: Option<String>,
        local: Option<&'t str>,
    },
}

impl<'t> Resolved<'t> {
    /// Looks the prefix up on the root element; `None` if it is not declared there.
    pub(super) fn of(test: &'t Test, document: &Document<'_>) -> Option<Self> {
        Some(match test {
            Test::Node => Self::Node,
            Test::Text => Self::Text,
            Test::Comment => Self::Comment,
            Test::Instruction(target) => Self::Instruction(target.as_deref()),
            Test::Name { prefix, local } => Self::Name {
                namespace: match (prefix.as_deref(), local) {
                    (None, None) => None,
                    (None, Some(_)) => Some(String::new()),
                    (Some("xml"), _) => Some(roxmltree::NS_XML_URI.to_owned()),
                    (Some(prefix), _) => Some(document.root_element().lookup_namespace_uri(Some(prefix))?.to_owned()),
                },
                local: local.as_deref(),
            },
        })
    }

    pub(super) fn holds(&self, place: Place<'_>, axis: Axis) -> bool {
        match (self, place) {
            (Self::Node, _) => true,
            (Self::Text, Place::Node(node)) => node.is_text(),
            (Self::Comment, Place::Node(node)) => node.is_comment(),
            (Self::Instruction(target), Place::Node(node)) => node
                .pi()
                .is_some_and(|pi| target.is_none_or(|target| target == pi.target)),
            (Self::Name { namespace, local }, _) => {
                let is_principal = match place {
                    Place::Node(node) => node.is_element() && axis != Axis::Attribute,
                    Place::Attribute(..) => axis == Axis::Attribute,
                };
                let (name, uri) = if is_principal { place.name() } else { return false };
                local.is_none_or(|local| local == name) && namespace.as_deref().is_none_or(|namespace| namespace == uri)
            }
            (_, Place::Attribute(..)) => false,
        }
    }
}
