// The search runs in a worker, and browsers allow none to a page that is opened as a file. There the worker's script runs in a
// hidden frame of the page instead. As with a worker, messages are copies and arrive later.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => {
        setTimeout(() => this.receive(structuredClone(data)));
      };
      const script = inner.document.createElement("script");
      script.src = new URL(url, location.href);
      this.loaded = new Promise((done) => (script.onload = done));
      inner.document.body.appendChild(script);
    }
    receive(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    async postMessage(data) {
      const inner = this.frame.contentWindow;
      const copy = inner.structuredClone(data); // made in the frame, so that it is of the frame's classes
      await this.loaded;
      setTimeout(() => inner.dispatchEvent(new inner.MessageEvent("message", { data: copy })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
