// SPDX-License-Identifier: Apache-2.0
// Prints what the schemas of custom kinds say about manifests (JSON), as a list of texts.
import { PrometheusRule, ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";

const kinds = { PrometheusRule, ServiceMonitor, ScaledObject };
const found = [];
for (const manifest of JSON.parse(process.argv[2])) {
  const kind = kinds[manifest.kind];
  if (!kind || kind.apiVersion !== manifest.apiVersion) {
    found.push(`${manifest.apiVersion} ${manifest.kind}: no schema`);
    continue;
  }
  try {
    new kind(manifest).validate();
  } catch (error) {
    found.push(`${manifest.kind}: ${error.message}`);
  }
}
console.log(JSON.stringify(found));
