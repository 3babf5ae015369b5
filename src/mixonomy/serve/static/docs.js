// Shows openapi.json as a page. All text goes in by textContent.
"use strict";

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const nameOf = (schema = {}) => (schema.$ref || "").split("/").pop();

function kindOf(schema = {}) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.map(kindOf).join(" or ");
  if (schema.type === "array") return schema.prefixItems ? schema.prefixItems.map(kindOf).join(", ") : `list of ${kindOf(schema.items)}`;
  if (schema.enum) return schema.enum.join(" or ");
  const range = ["minimum", "maximum"].some((key) => key in schema) ? ` from ${schema.minimum} to ${schema.maximum ?? "…"}` : "";
  return `${{ integer: "whole number", string: "text", boolean: "yes or no" }[schema.type] || schema.type || "any"}${range}`;
}

function table(lines) {
  return element("table", {}, ...lines.map((cells, i) => element("tr", {}, ...cells.map((cell) => element(i ? "td" : "th", { textContent: cell })))));
}

function fields(schema) {
  return table([["field", "is", ""], ...Object.entries(schema.properties || {}).map(([name, of]) => [name, kindOf(of), of.description || ""])]);
}

function example(path, method, route) {
  const url = `${location.origin}${path}`;
  if (!route.requestBody) return `curl ${url}`;
  return `curl --data-binary @photo.jpg ${url}\ncurl -F image=@one.jpg${path === "/v1/predict" ? " -F image=@two.png" : ""} ${url}`;
}

async function show() {
  const api = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const answer = route.responses[200]?.content?.["application/json"]?.schema;
      const box = element("section", { className: "panel" },
        element("h3", {}, element("span", { className: "method", textContent: method.toUpperCase() }), element("code", { textContent: path })),
        ...(route.description || "").split("\n\n").map((text) => element("p", { textContent: text.replaceAll("`", "") })),
        element("pre", { textContent: example(path, method, route), tabIndex: 0 }));
      if (route.parameters?.length) {
        box.append(table([["parameter", "is", "if not given"],
          ...route.parameters.map((p) => [p.name, kindOf(p.schema), String(p.schema.default ?? "")])]));
      }
      if (nameOf(answer)) {
        box.append(element("details", {}, element("summary", { textContent: `Answer: ${nameOf(answer)}` }), fields(api.components.schemas[nameOf(answer)])));
      }
      const errors = Object.entries(route.responses).filter(([status]) => status >= 400);
      box.append(element("details", {}, element("summary", { textContent: "Errors" }),
        table([["status", "why"], ...errors.map(([status, response]) => [status, response.description])])));
      document.getElementById("routes").append(box);
    }
  }
  const models = element("section", { className: "panel" }, element("h3", { textContent: "Parts of answers" }));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    models.append(element("details", {}, element("summary", { textContent: name }), fields(schema)));
  }
  document.getElementById("routes").append(models);
}

show();
