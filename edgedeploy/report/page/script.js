"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const rows = Array.from(body.rows);

  const show = () => {
    let visible = 0;
    for (const row of rows) {
      const fits = Array.from(form.querySelectorAll("select")).every(
        (select) => !select.value || row.dataset[select.name] === select.value
      );
      const hidden = !fits || (form.elements.calm.checked && row.dataset.doubts !== "0");
      row.hidden = hidden;
      document.getElementById(row.dataset.target).hidden = hidden;
      visible += hidden ? 0 : 1;
    }
    count.textContent = visible === rows.length ? `all ${rows.length} shown` : `${visible} of ${rows.length} shown`;
  };

  const compare = (kind, one, other) =>
    kind === "number" ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });

  const sort = (header) => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    const column = header.cellIndex;
    for (const cell of header.parentNode.cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value;
    const sorted = rows.slice().sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (one === "" || other === "") return (one === "") - (other === "");
      return compare(header.dataset.kind, one, other) * (up ? 1 : -1);
    });
    body.append(...sorted);
  };

  for (const header of table.tHead.rows[0].cells) {
    if (!header.dataset.kind) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.reset();
  form.hidden = false;
  show();
})();
