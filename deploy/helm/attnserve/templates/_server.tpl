{{/* SPDX-License-Identifier: Apache-2.0
     Parts of the server's container. */}}
{{- define "attnserve.environment" -}}
{{- $v := .Values -}}
- {name: ATTNSERVE_GRPC_PORT, value: "8001"}
- {name: ATTNSERVE_HTTP_PORT, value: "8002"}
- {name: ATTNSERVE_ENGINE_DEVICE, value: {{ ternary "cuda" "cpu" $v.gpu.enabled }}}
- {name: ATTNSERVE_ENGINE_WORKERS, value: {{ $v.workers | toString | quote }}}
- {name: ATTNSERVE_DRAIN_SECONDS, value: {{ $v.drainSeconds | toString | quote }}}
- {name: ATTNSERVE_LOG_FORMAT, value: {{ $v.logFormat }}}
{{- if $v.trace.endpoint }}
- {name: ATTNSERVE_TRACE_ENDPOINT, value: {{ $v.trace.endpoint | quote }}}
- {name: ATTNSERVE_TRACE_SAMPLE_RATIO, value: {{ $v.trace.sampleRatio | toString | quote }}}
{{- end }}
{{- if $v.models.existingClaim }}
- {name: ATTNSERVE_MODELS, value: /models}
{{- end }}
{{- if $v.tls.secretName }}
- {name: ATTNSERVE_TLS_CERTIFICATE, value: /etc/attnserve/tls/tls.crt}
- {name: ATTNSERVE_TLS_KEY, value: /etc/attnserve/tls/tls.key}
- {name: ATTNSERVE_HTTP_PLAIN_PORT, value: "8003"}
{{- end }}
{{- if $v.tls.clientCaSecretName }}
- {name: ATTNSERVE_TLS_CLIENT_CA, value: /etc/attnserve/client-ca/ca.crt}
{{- end }}
{{- if $v.tokens.secretName }}
- {name: ATTNSERVE_TOKENS_FILE, value: /etc/attnserve/tokens/tokens.txt}
{{- end }}
{{- end -}}

{{/* Kubernetes' gRPC probes know no TLS: with it, the page /healthz on the plain port says the same. */}}
{{- define "attnserve.probes" -}}
{{- range $name, $times := dict "startupProbe" (dict "periodSeconds" 2 "failureThreshold" 150) "readinessProbe" (dict "periodSeconds" 3 "failureThreshold" 2) "livenessProbe" (dict "periodSeconds" 20 "failureThreshold" 6) }}
{{ $name }}:
  {{- if $.Values.tls.secretName }}
  httpGet: {path: /healthz, port: plain}
  {{- else }}
  grpc: {port: 8001}
  {{- end }}
  timeoutSeconds: 5
  {{- toYaml $times | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "attnserve.resources" -}}
{{- $found := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $_ := set $found "limits" (merge (dict .Values.gpu.resource .Values.gpu.count) (default (dict) $found.limits)) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- define "attnserve.mounts" -}}
{{- $v := .Values -}}
- {name: tmp, mountPath: /tmp}
{{- if $v.config }}
- {name: config, mountPath: /etc/attnserve/config, readOnly: true}
{{- end }}
{{- if $v.models.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if $v.tls.secretName }}
- {name: tls, mountPath: /etc/attnserve/tls, readOnly: true}
{{- end }}
{{- if $v.tls.clientCaSecretName }}
- {name: client-ca, mountPath: /etc/attnserve/client-ca, readOnly: true}
{{- end }}
{{- if $v.tokens.secretName }}
- {name: tokens, mountPath: /etc/attnserve/tokens, readOnly: true}
{{- end }}
{{- end -}}

{{- define "attnserve.volumes" -}}
{{- $v := .Values -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if $v.config }}
- name: config
  configMap: {name: {{ include "attnserve.name" . }}}
{{- end }}
{{- if $v.models.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ $v.models.existingClaim }}}
{{- end }}
{{- if $v.tls.secretName }}
- name: tls
  secret: {secretName: {{ $v.tls.secretName }}, defaultMode: 0440, optional: false}
{{- end }}
{{- if $v.tls.clientCaSecretName }}
- name: client-ca
  secret: {secretName: {{ $v.tls.clientCaSecretName }}, defaultMode: 0440, optional: false}
{{- end }}
{{- if $v.tokens.secretName }}
- name: tokens
  secret: {secretName: {{ $v.tokens.secretName }}, defaultMode: 0440, optional: false}
{{- end }}
{{- end -}}
