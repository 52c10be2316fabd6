// The page of results in a frame; what is selected there is the widget's selection, both ways.
export default {
  render({ model, el }) {
    const frame = document.createElement("iframe");
    frame.srcdoc = model.get("page");
    frame.title = "results";
    frame.style.cssText = `width:100%;height:${model.get("tall")}px;border:1px solid #8888`;
    const told = ({ source, data }) => {
      if (source !== frame.contentWindow || data?.loupe !== "selection") return;
      model.set("selection", data.selection);
      model.save_changes();
    };
    const given = () => frame.contentWindow?.postMessage({ loupe: "select", selection: model.get("selection") }, "*");
    addEventListener("message", told);
    model.on("change:selection", given);
    el.append(frame);
    return () => { removeEventListener("message", told); model.off("change:selection", given); };
  },
};
