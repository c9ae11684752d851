// A list of any length: only the rows that can be seen are elements.

const ROW_HEIGHT = 46;
const BEYOND = 6; // rows above and below what can be seen

/** container: a listbox that scrolls. render: fills the element of a row. chosen: is told which place was picked. */
class VirtualList {
  constructor(container, render, chosen) {
    this.container = container;
    this.render = render;
    this.chosen = chosen;
    this.rows = new Uint32Array(0);
    this.cursor = -1;
    this.inner = element("div", { class: "list-inner", role: "presentation" });
    container.append(this.inner);
    container.addEventListener("scroll", () => this.draw());
    container.addEventListener("click", (event) => {
      // by its place, not by its element: that may have been drawn anew between press and release
      const place = Math.floor((event.clientY - this.inner.getBoundingClientRect().top) / ROW_HEIGHT);
      if (place >= 0 && place < this.rows.length) this.chosen(place);
    });
    container.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(container);
  }

  show(rows) {
    this.rows = rows;
    this.inner.style.height = `${rows.length * ROW_HEIGHT}px`;
    if (this.cursor >= rows.length) this.cursor = rows.length - 1;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.container.scrollTop / ROW_HEIGHT) - BEYOND);
    const last = Math.min(
      this.rows.length,
      Math.ceil((this.container.scrollTop + this.container.clientHeight) / ROW_HEIGHT) + BEYOND,
    );
    const options = [];
    for (let place = first; place < last; place++) {
      const option = element("div", {
        class: `option${place === this.cursor ? " at-cursor" : ""}`,
        role: "option",
        id: `option-${place}`,
        "data-place": place,
        "aria-selected": place === this.cursor ? "true" : "false",
        "aria-setsize": this.rows.length,
        "aria-posinset": place + 1,
      });
      option.style.transform = `translateY(${place * ROW_HEIGHT}px)`;
      this.render(option, this.rows[place]);
      options.push(option);
    }
    this.inner.replaceChildren(...options);
    if (this.cursor >= first && this.cursor < last)
      this.container.setAttribute("aria-activedescendant", `option-${this.cursor}`);
    else this.container.removeAttribute("aria-activedescendant");
  }

  /** Moves the cursor, and scrolls as far as needed for it to be seen. */
  move(place) {
    this.cursor = Math.max(0, Math.min(this.rows.length - 1, place));
    const top = this.cursor * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.container;
    if (top < scrollTop) this.container.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) this.container.scrollTop = top + ROW_HEIGHT - clientHeight;
    this.draw();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.container.clientHeight / ROW_HEIGHT) - 1);
    const to = {
      ArrowDown: this.cursor + 1,
      ArrowUp: this.cursor - 1,
      PageDown: this.cursor + page,
      PageUp: this.cursor - page,
      Home: 0,
      End: this.rows.length - 1,
    }[event.key];
    if (event.key === "Enter" && this.cursor >= 0) this.chosen(this.cursor);
    else if (to === undefined) return;
    else this.move(to);
    event.preventDefault();
  }
}
