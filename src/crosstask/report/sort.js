for (const table of document.querySelectorAll("table.sortable")) {
  const [row] = table.tHead.rows, body = table.tBodies[0];
  const value = (line, place) => line.cells[place].dataset.value ?? (place ? "" : line.cells[0].textContent);
  [...row.cells].forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = place ? head.ariaSort === "descending" : head.ariaSort !== "ascending";
      const order = (a, b) => (place ? Number(a) - Number(b) : a.localeCompare(b)) * (up ? 1 : -1);
      const [there, missing] = [[], []];
      for (const line of [...body.rows]) (value(line, place) === "" ? missing : there).push(line);
      there.sort((a, b) => order(value(a, place), value(b, place)));
      body.append(...there, ...missing);
      for (const other of row.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
