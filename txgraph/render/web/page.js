// The page: views to choose from, a search, what is known of a node, and tables.

const MOST_BOXES = 120; // drawn at first; more are a click away
const MOST_FOUND = 30;
const $ = (id) => document.getElementById(id);

// An element with attributes and children; texts become text, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

class Page {
  constructor(viz, data) {
    this.viz = viz;
    this.data = data;
    this.views = new Map(Object.entries(data.views).map(([name, view]) => [name, new View(view)]));
    for (const view of this.views.values()) view.closeTo(MOST_BOXES);
    this.factor = widening(viz, data.style.node.fontname);
    this.selected = null;
    this.kernelsOf = new Map();
    for (const kernel of data.kernels)
      for (const node of kernel.nodes) this.kernelsOf.set(node, [...(this.kernelsOf.get(node) ?? []), kernel]);
    for (const name of this.views.keys()) {
      $("views").append(make("button", { "data-view": name, onclick: () => this.show(name) }, name));
    }
    for (const [status, look] of Object.entries(data.style.looks)) {
      const border = `border: ${Math.ceil(look.width)}px ${look.borders > 1 ? "double" : look.border} ${look.line}`;
      $("legend").append(make("li", { style: `background: ${look.fill}; ${border}` }, look.meaning ?? status));
    }
    $("open-all").addEventListener("click", () => this.setOpen([...this.view.containers.keys()]));
    $("close-all").addEventListener("click", () => this.setOpen([]));
    $("fit").addEventListener("click", () => this.fit());
    this.listenToSearch();
    this.listenToDrawing();
    for (const table of data.tables) $("tables").append(this.table(table));
    this.show(this.views.has(data.first) ? data.first : "diff");
  }

  show(name) {
    const before = this.selected && this.view.get(this.selected);
    this.name = name;
    this.view = this.views.get(name);
    for (const button of $("views").children) button.setAttribute("aria-pressed", button.dataset.view === name);
    this.draw();
    this.fit();
    // What was looked at is looked at here, too: the same operator, or what it became.
    const same = (box) => (before.number ? box.number === before.number : box.name === before.name);
    const found = before && [...this.view.boxes.values()].find(same);
    if (found) this.reveal(found.id);
    else this.select(null);
  }

  draw() {
    const svg = this.viz.renderSVGElement(this.view.graph(this.data.style, this.factor));
    svg.removeAttribute("width");
    svg.removeAttribute("height");
    for (const title of svg.querySelectorAll("title")) {
      title.parentNode.dataset.id = title.textContent.replace(/^cluster_/, "");
      title.remove(); // else the browser shows it at the pointer
    }
    for (const text of svg.querySelectorAll("text"))
      text.setAttribute("font-size", text.getAttribute("font-size") / this.factor);
    $("drawing").replaceChildren(svg);
    this.svg = svg;
    this.home = svg.getAttribute("viewBox").split(/[ ,]+/).map(Number);
    this.mark();
  }

  setOpen(ids) {
    this.view.open = new Set(ids);
    this.draw();
    this.fit();
  }

  toggle(id) {
    this.view.toggle(id);
    const frame = this.frame;
    this.draw();
    this.look(frame);
    this.center(id);
    this.select(id);
  }

  reveal(id) {
    if (this.view.drawn(id) !== id) {
      this.view.reveal(id);
      this.draw();
      this.fit();
    }
    this.center(id);
    this.select(id);
  }

  // --- zoom and move: the viewBox is what is looked at

  look(frame) {
    this.frame = frame;
    this.svg.setAttribute("viewBox", frame.join(" "));
  }

  fit() {
    this.look(this.home.slice());
  }

  center(id) {
    const element = this.element(id);
    if (!element) return;
    const box = element.getBBox();
    const at = new DOMPoint(box.x + box.width / 2, box.y + box.height / 2);
    const point = at.matrixTransform(element.getCTM()).matrixTransform(this.svg.getCTM().inverse());
    const [, , width, height] = this.frame;
    const most = Math.max(box.width * 2.5, 900); // near enough to be read
    const factor = Math.min(1, most / width);
    this.look([point.x - (width * factor) / 2, point.y - (height * factor) / 2, width * factor, height * factor]);
  }

  listenToDrawing() {
    const drawing = $("drawing");
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
      return [point.x, point.y];
    };
    let from = null;
    let moved = false;
    drawing.addEventListener("wheel", (event) => {
      event.preventDefault();
      const factor = Math.exp(event.deltaY * 0.0015);
      const [x, y] = at(event);
      const [left, top, width, height] = this.frame;
      this.look([x + (left - x) * factor, y + (top - y) * factor, width * factor, height * factor]);
    }, { passive: false });
    drawing.addEventListener("pointerdown", (event) => {
      from = at(event);
      moved = false;
    });
    window.addEventListener("pointerup", () => { from = null; });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = at(event);
      moved ||= Math.hypot(x - from[0], y - from[1]) > this.frame[2] / 300;
      if (moved) this.look([this.frame[0] + from[0] - x, this.frame[1] + from[1] - y, this.frame[2], this.frame[3]]);
    });
    const idOf = (event) => event.target.closest("g.node, g.cluster")?.dataset.id ?? null;
    drawing.addEventListener("click", (event) => {
      if (!moved) this.select(idOf(event));
    });
    drawing.addEventListener("dblclick", (event) => {
      const id = idOf(event);
      if (id !== null && this.view.containers.has(id)) this.toggle(id);
      else if (id === null) this.fit();
    });
  }

  // --- what is selected

  element(id) {
    return [...this.svg.querySelectorAll("g.node, g.cluster")].find((each) => each.dataset.id === id);
  }

  select(id) {
    this.selected = id !== null && this.view.get(id) ? id : null;
    this.mark();
    $("details").replaceChildren(...(this.selected === null ? this.overview() : this.details(this.selected)));
  }

  mark() {
    for (const each of this.svg.querySelectorAll("g.node, g.cluster"))
      each.classList.toggle("selected", each.dataset.id === this.selected);
  }

  light(number) {
    for (const each of this.svg.querySelectorAll("g.node"))
      each.classList.toggle("dim", number !== null && !each.classList.contains(`rewrite${number}`));
  }

  overview() {
    const rows = this.data.changes.map((change) => {
      const look = this.data.style.looks[change.status];
      const attributes = change.number && {
        "data-rewrite": change.number,
        onmouseenter: () => this.light(change.number),
        onmouseleave: () => this.light(null),
        onclick: () => this.revealRewrite(change.number),
      };
      return make("tr", attributes || {},
        make("td", { style: `background: ${look.fill}` }, change.verb + (change.number ? ` #${change.number}` : "")),
        make("td", { class: "number" }, `${change.count} ×`),
        make("td", {}, make("b", {}, change.passes), make("br"), change.what,
          change.where ? make("span", { class: "quiet" }, ` in ${change.where}`) : null));
    });
    const none = rows.length ? [] : [make("p", {}, "the graphs are equal")];
    return [make("h2", {}, "What was changed"), make("p", { class: "quiet" }, this.data.summary), ...none,
      make("table", {}, ...rows)];
  }

  revealRewrite(number) {
    const found = [...this.view.boxes.values()].find((box) => box.number === number);
    if (found) this.reveal(found.id);
  }

  details(id) {
    const each = this.view.get(id);
    const items = [];
    const add = (name, value) => value && items.push(make("dt", {}, name), make("dd", {}, value));
    add("what became of it", each.note && (each.number ? `#${each.number} ` : "") + each.note);
    add("time", each.share);
    add("stands for", each.times > 1 ? `${each.times} equal ones` : "");
    const parts = [make("h2", {}, each.title), make("dl", {}, ...items)];
    if (this.view.containers.has(id)) {
      const open = this.view.open.has(id);
      parts.push(make("button", { onclick: () => this.toggle(id) }, open ? "close" : "open"));
      return [...parts, ...this.inside(id)];
    }
    const side = each.status === "removed" || this.name === "before" ? "before" : "after";
    for (const name of each.ops) parts.push(...this.operator(side, name));
    if (each.replaced.length) parts.push(make("h2", {}, "Made of"));
    for (const name of each.replaced) parts.push(...this.operator("before", name));
    return parts;
  }

  inside(id) {
    const list = this.view.children.get(id).map((each) =>
      make("li", {}, make("a", { href: "#", onclick: (event) => {
        event.preventDefault();
        this.reveal(each.id);
      } }, each.title)));
    return [make("h3", {}, "Inside"), make("ul", {}, ...list)];
  }

  operator(side, name) {
    const op = this.data.ops[side][name];
    const items = [];
    const add = (label, value) => value && items.push(make("dt", {}, label), make("dd", {}, value));
    add("type", op.type);
    add("module", op.module);
    add("source", op.location);
    add("passes", op.passes);
    add("error", op.error);
    const parts = [make("h3", {}, op.op), make("code", {}, op.text), make("dl", {}, ...items)];
    if (op.code) parts.push(make("pre", { class: "source" }, op.code));
    for (const miss of op.misses) parts.push(make("p", {}, make("b", {}, `not ${miss.rule}: `), miss.reason));
    if (side === "after") for (const kernel of this.kernelsOf.get(name) ?? []) parts.push(this.kernel(kernel));
    return parts;
  }

  kernel(kernel) {
    const head = `kernel ${kernel.name}${kernel.time ? `, ${kernel.time}` : ""}`;
    if (kernel.code === null) return make("p", {}, head);
    return make("details", { class: "kernel" }, make("summary", {}, head), make("pre", {}, this.data.codes[kernel.code]));
  }

  // --- search

  listenToSearch() {
    const [input, list] = [$("search"), $("found")];
    let current = 0;
    const mark = () => [...list.children].forEach((li, at) => li.classList.toggle("current", at === current));
    const close = () => { list.hidden = true; };
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const all = [...this.view.boxes.values(), ...this.view.containers.values()];
      const found = words.length ? all.filter((each) => words.every((word) => each.text.includes(word))) : [];
      const items = found.slice(0, MOST_FOUND).map((each) =>
        make("li", { onclick: () => { close(); this.reveal(each.id); } },
          make("b", {}, each.title), " ", make("span", { class: "quiet" }, each.where)));
      if (found.length > items.length) items.push(make("li", { class: "quiet" }, `and ${found.length - items.length} more`));
      if (words.length && !found.length) items.push(make("li", { class: "quiet" }, "nothing found"));
      list.replaceChildren(...items);
      list.hidden = !items.length;
      current = 0;
      mark();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") list.children[current]?.click();
      if (event.key === "Escape") close();
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const step = event.key === "ArrowDown" ? 1 : -1;
        current = Math.max(0, Math.min(list.children.length - 1, current + step));
        mark();
        event.preventDefault();
      }
    });
    document.addEventListener("click", (event) => { if (!event.target.closest(".search")) close(); });
  }

  // --- tables

  table({ title, columns, rows, open, note, pictures }) {
    const cell = (value) => typeof value === "number"
      ? make("td", { class: "number" }, String(value)) : make("td", {}, value ?? "");
    const body = columns.length
      ? make("table", {}, make("tr", {}, ...columns.map((name) => make("th", {}, name))),
        ...rows.map((row) => make("tr", {}, ...row.map(cell))))
      : make("pre", {}, rows.map((row) => row[0]).join("\n"));
    const drawn = pictures.map((svg) =>
      document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true));
    return make("details", { open }, make("summary", {}, title), note ? make("p", { class: "quiet" }, note) : null,
      drawn.length ? make("div", { class: "charts" }, ...drawn) : null, rows.length ? body : null);
  }
}

const ready = Promise.all([Viz.instance(), unpack(packed)]).then(([viz, data]) => new Page(viz, data));
ready.then((page) => { window.page = page; }, (error) => {
  $("drawing").replaceChildren(make("p", {}, `The graph cannot be drawn in this browser: ${error.message ?? error}`));
  throw error;
});
