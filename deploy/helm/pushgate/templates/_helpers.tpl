{{- define "pushgate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pushgate.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pushgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "pushgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "pushgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pushgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Which roles there are: "all", or "api" and "worker". */}}
{{- define "pushgate.roles" -}}
{{- if eq .Values.spool.kind "nats" -}}api worker{{- else -}}all{{- end -}}
{{- end -}}

{{/* Which of them takes requests. */}}
{{- define "pushgate.front" -}}
{{- if eq .Values.spool.kind "nats" -}}api{{- else -}}all{{- end -}}
{{- end -}}

{{- define "pushgate.spoolEnv" -}}
- name: PUSHGATE_SPOOL__URL
{{- if eq .Values.spool.kind "sqlite" }}
  value: sqlite:/var/lib/pushgate/spool.db
{{- else }}
  value: {{ required "spool.nats.url must be set" .Values.spool.nats.url | quote }}
{{- end }}
{{- end -}}

{{/* The template of a pod. Wants a dict: root, role. */}}
{{- define "pushgate.pod" -}}
{{- $ := .root -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "pushgate.labels" $ | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "pushgate.serviceAccount" $ }}
  automountServiceAccountToken: {{ $values.serviceAccount.automount }}
  # Kubernetes would tell of each Service in variables that begin with PUSHGATE_
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $values.drainSeconds $values.preStopSeconds 15 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- if $values.affinity }}
    {{- toYaml $values.affinity | nindent 4 }}
    {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "pushgate.selector" $ | nindent 16 }}
                app.kubernetes.io/component: {{ .role }}
    {{- end }}
  topologySpreadConstraints:
    {{- if $values.topologySpreadConstraints }}
    {{- toYaml $values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "pushgate.selector" $ | nindent 10 }}
          app.kubernetes.io/component: {{ .role }}
    {{- end }}
  containers:
    - name: pushgate
      image: {{ $values.image.repository }}{{ if $values.image.digest }}@{{ $values.image.digest }}{{ else }}:{{ default $.Chart.AppVersion $values.image.tag }}{{ end }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [serve, --config, /etc/pushgate/pushgate.toml, --role, {{ .role }}]
      env:
        {{- if ne .role "worker" }}
        - name: PUSHGATE_API__LISTEN
          value: {{ printf "%s:8443" $values.listenHost | quote }}
        {{- end }}
        - name: PUSHGATE_MANAGEMENT__LISTEN
          value: {{ printf "%s:%v" $values.listenHost $values.management.port | quote }}
        - name: PUSHGATE_MANAGEMENT__TOKEN_FILE
          value: /etc/pushgate/management.token
        - name: PUSHGATE_DELIVERY__DRAIN_S
          value: {{ $values.drainSeconds | quote }}
        {{- include "pushgate.spoolEnv" $ | nindent 8 }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if ne .role "worker" }}
        - name: api
          containerPort: 8443
        {{- end }}
        - name: management
          containerPort: {{ $values.management.port }}
      # as long as it opens its spool: a large one takes its time after a crash
      startupProbe:
        httpGet: {path: /health/live, port: management}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /health/live, port: management}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /health/ready, port: management}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if ne .role "worker" }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ $values.preStopSeconds | quote }}]
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/pushgate
          readOnly: true
        - name: tmp
          mountPath: /tmp
        {{- if eq .role "all" }}
        - name: spool
          mountPath: /var/lib/pushgate
        {{- end }}
  volumes:
    - name: config
      projected:
        defaultMode: 0440
        sources:
          - configMap:
              name: {{ include "pushgate.fullname" $ }}
          - secret:
              name: {{ $values.management.tokenSecret.name }}
              items:
                - key: {{ $values.management.tokenSecret.key }}
                  path: management.token
          {{- range $values.secrets }}
          - secret:
              {{- toYaml . | nindent 14 }}
          {{- end }}
          {{- if ne .role "api" }}
          {{- range $values.providerSecrets }}
          - secret:
              {{- toYaml . | nindent 14 }}
          {{- end }}
          {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 16Mi
{{- end -}}
