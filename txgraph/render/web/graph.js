// What is drawn of a view while some of its modules and groups are closed, as a graph for viz.js.
//
// A view: {boxes, containers, links}. Boxes and containers have an id and the id of the container around them, or null.
// A closed container is drawn as a box; arrows to what is inside of it end there.

// Graphviz knows the widths of letters in Helvetica. Where the browser has another font, the text is laid out as if it
// were larger by this factor, and then written in its own size.
function widening(viz, font) {
  const sample = "scaled_dot_product_attention weight [768x3072] fused by";
  const node = { name: "sample", attributes: { label: sample, shape: "plain", fontname: font, fontsize: 10, margin: 0 } };
  const known = viz.renderJSON({ nodes: [node] }).objects[0].width * 72;
  const context = document.createElement("canvas").getContext("2d");
  const widths = ["", "bold "].map((weight) => {
    context.font = `${weight}100px ${font}`;
    return context.measureText(sample).width / 10;
  });
  return Math.max(1, widths[0] / known, widths[1] / known / 1.06); // bold Helvetica is that much wider
}

const sized = (label, factor) => ({
  html: label.replace(/POINT-SIZE="(\d+)"/g, (_, size) => `POINT-SIZE="${size * factor}"`),
});

class View {
  constructor({ boxes, containers, links }) {
    this.boxes = new Map(boxes.map((box) => [box.id, box]));
    this.containers = new Map(containers.map((each) => [each.id, each]));
    this.links = links;
    this.open = new Set(this.containers.keys());
    this.children = new Map([[null, []]]);
    for (const each of this.containers.values()) this.children.set(each.id, []);
    for (const each of [...boxes, ...containers]) this.children.get(each.parent).push(each);
    for (const each of this.containers.values()) if (each.closed) this.open.delete(each.id);
  }

  get(id) {
    return this.boxes.get(id) ?? this.containers.get(id);
  }

  // The containers around a box or container, the outermost first.
  around(id) {
    const found = [];
    for (let at = this.get(id).parent; at !== null; at = this.containers.get(at).parent) found.unshift(at);
    return found;
  }

  // What stands for a box: itself, or the outermost closed container around it.
  drawn(id) {
    return this.around(id).find((each) => !this.open.has(each)) ?? id;
  }

  visible() {
    const inside = (parent) =>
      this.children.get(parent).flatMap((each) => (this.open.has(each.id) ? inside(each.id) : [each.id]));
    return inside(null);
  }

  // Close the innermost containers until so many boxes are left at most.
  closeTo(most) {
    const depth = (id) => this.around(id).length;
    while (this.visible().length > most) {
      const open = [...this.open].filter((id) => this.around(id).every((each) => this.open.has(each)));
      if (!open.length) return;
      const deepest = Math.max(...open.map(depth));
      for (const id of open) if (depth(id) === deepest) this.open.delete(id);
    }
  }

  reveal(id) {
    for (const each of this.around(id)) this.open.add(each);
  }

  toggle(id) {
    if (!this.open.delete(id)) this.open.add(id);
  }

  // The graph in the form of viz.js: {graphAttributes, nodes, edges, subgraphs}.
  graph(style, factor) {
    const arrows = this.arrows();
    const users = new Map();
    for (const { tail } of arrows) users.set(tail, (users.get(tail) ?? 0) + 1);
    const wide = (id) => users.get(id) > style.mostArrows; // named where it is used: arrows would hide the rest
    const edges = [];
    const references = new Map();
    const labelled = new Set();
    for (const { tail, head, type, removed } of arrows) {
      const look = removed ? { style: "dashed", color: style.looks.removed.line } : {};
      if (wide(tail)) {
        const name = `${tail} at ${head}`;
        const label = sized(`%${this.get(tail).name}`, factor);
        const beside = this.get(head).parent;
        references.set(beside, [...(references.get(beside) ?? []), { name, attributes: { label, shape: "plain" } }]);
        edges.push({ tail: name, head, attributes: { ...look, style: "dashed" } });
        continue;
      }
      const label = labelled.has(tail + type) ? {} : { label: ` ${type.replaceAll("\\", "\\\\")}` };
      labelled.add(tail + type);
      edges.push({ tail, head, attributes: { ...look, ...label } });
    }
    const build = (parent) => {
      const part = { nodes: references.get(parent) ?? [], subgraphs: [] };
      for (const each of this.children.get(parent)) {
        if (this.open.has(each.id)) {
          const attributes = { ...style.frame, fontsize: style.frame.fontsize * factor, label: sized(each.head, factor) };
          if (each.repeated) Object.assign(attributes, style.repeated);
          part.subgraphs.push({ name: `cluster_${each.id}`, graphAttributes: attributes, ...build(each.id) });
        } else {
          part.nodes.push({ name: each.id, attributes: this.attributes(each, style, factor, wide(each.id)) });
        }
      }
      return part;
    };
    return {
      graphAttributes: style.graph,
      nodeAttributes: { ...style.node, fontsize: style.node.fontsize * factor },
      edgeAttributes: { ...style.edge, fontsize: style.edge.fontsize * factor },
      edges,
      ...build(null),
    };
  }

  attributes(each, style, factor, named) {
    const look = style.looks[each.status];
    const name = named ? `<BR/>%${each.name}` : "";
    const group = this.containers.has(each.id);
    return {
      label: sized(each.label + name, factor),
      fillcolor: each.plain ? "#E8E8E8" : look.fill,
      color: look.line,
      style: `filled,${look.border}${group || each.plain ? ",rounded" : ""}`,
      penwidth: look.width,
      peripheries: look.borders,
      class: [each.status, each.number ? `rewrite${each.number}` : "", group ? "closed" : ""].filter(Boolean).join(" "),
    };
  }

  // Arrows between what is drawn: one for each type, and one in all where an end is a closed container.
  arrows() {
    const found = new Map();
    for (const [source, target, type, removed] of this.links) {
      const [tail, head] = [this.drawn(source), this.drawn(target)];
      if (tail === head) continue;
      const one = this.containers.has(tail) || this.containers.has(head);
      const key = JSON.stringify([tail, head, removed, one ? "" : type]);
      if (!found.has(key)) found.set(key, { tail, head, type, removed });
    }
    return [...found.values()];
  }
}
