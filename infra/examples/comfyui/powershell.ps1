# powershell.ps1 -Photo photo.jpg [-Cutout cutout.png]: the cutout of one photo. Needs PowerShell 7.
# COMFY_URL is the server, COMFY_KEY an API key.
param(
    [Parameter(Mandatory)] [string] $Photo,
    [string] $Cutout = "cutout.png",
    [string] $Server = ($env:COMFY_URL ?? "http://127.0.0.1:8188")
)
$ErrorActionPreference = "Stop"
$headers = if ($env:COMFY_KEY) { @{ Authorization = "Bearer $env:COMFY_KEY" } } else { @{} }

$form = @{ image = Get-Item -Path $Photo }
$uploaded = Invoke-RestMethod -Method Post -Uri "$Server/upload/image" -Headers $headers -Form $form

$workflow = Join-Path $PSScriptRoot "production_bg_removal_api.json"
$graph = Get-Content -Raw -Path $workflow | ConvertFrom-Json -AsHashtable
$graph["1"].inputs.image = $uploaded.name
$body = @{ prompt = $graph } | ConvertTo-Json -Depth 20
$posted = Invoke-RestMethod -Method Post -Uri "$Server/prompt" -Headers $headers `
    -ContentType "application/json" -Body $body
$id = $posted.prompt_id

do {
    Start-Sleep -Milliseconds 500
    $entry = (Invoke-RestMethod -Uri "$Server/history/$id" -Headers $headers).$id
} until ($entry)
if ($entry.status.status_str -ne "success") {
    throw "failed: $($entry.status.messages | ConvertTo-Json -Depth 20 -Compress)"
}

$saved = $entry.outputs."5".images[0]
$query = "filename=$([uri]::EscapeDataString($saved.filename))" +
    "&subfolder=$([uri]::EscapeDataString($saved.subfolder))&type=output"
Invoke-WebRequest -Uri "$Server/view?$query" -Headers $headers -OutFile $Cutout
"$($saved.filename) -> $Cutout"
